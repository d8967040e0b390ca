// Stands in for a model's library with OpenCL programs: TVM finds it as the system library "fake_library_". What it compiles is
// binary data, with every byte in it. FAKE_DRIVER=refuses makes it refuse what was compiled before, and FAKE_DRIVER=crashes die of it.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tvm/ffi/c_api.h>
#include <tvm/ffi/extra/c_env_api.h>

static TVMFFIByteArray Compiled(void) {
  static char bytes[512];
  for (size_t i = 0; i < sizeof(bytes); ++i) bytes[i] = (char)i;
  TVMFFIByteArray compiled = {bytes, sizeof(bytes)};
  return compiled;
}

static int Get(void* self, const TVMFFIAny* args, int32_t count, TVMFFIAny* result) {
  puts("compiled");
  TVMFFIByteArray compiled = Compiled();
  return TVMFFIStringFromByteArray(&compiled, result);
}

static int Set(void* self, const TVMFFIAny* args, int32_t count, TVMFFIAny* result) {
  const TVMFFIByteArray* kept = (const TVMFFIByteArray*)((const char*)args[0].v_obj + sizeof(TVMFFIObject));
  TVMFFIByteArray compiled = Compiled();
  int same = kept->size == compiled.size && memcmp(kept->data, compiled.data, compiled.size) == 0;
  puts(same ? "restored" : "restored something else");
  const char* driver = getenv("FAKE_DRIVER");
  if (driver == NULL) return 0;
  if (strcmp(driver, "crashes") == 0) _Exit(139);
  TVMFFIErrorSetRaisedFromCStr("RuntimeError", "CL_INVALID_BINARY");
  return -1;
}

__attribute__((constructor)) static void Register(void) {
  TVMFFIEnvModRegisterSystemLibSymbol("__tvm_ffi_fake_library_opencl.GetPreCompiledPrograms", (void*)Get);
  TVMFFIEnvModRegisterSystemLibSymbol("__tvm_ffi_fake_library_opencl.SetPreCompiledPrograms", (void*)Set);
}
