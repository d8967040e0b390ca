/* Calls a compiled kernel once, without TVM's runtime. Compiled with -DKERNEL=SYMBOL.
 *
 * run_kernel < ARGUMENTS > RESULT
 *
 * ARGUMENTS are tensors up to the end: DLPack's code of the dtype, its bits, the number of dimensions and the dimensions,
 * all int64, and then the data. RESULT is the data of the last tensor, after the call.
 */
#include <dlpack/dlpack.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <tvm/ffi/c_api.h>

#define MOST 8 /* arguments, and dimensions of one */

typedef struct {
  void *sync;
  int32_t num_task;
} Environment;
typedef int (*Body)(int task, Environment *environment, void *data);

/* One task does the work of all, and waits for none at a barrier. */
static int run_here(Body body, void *data, int tasks) {
  (void)tasks;
  Environment environment = {NULL, 1};
  return body(0, &environment, data);
}
static int pass(int task, Environment *environment) {
  (void)task, (void)environment;
  return 0;
}
static void *allocate(int type, int id, uint64_t bytes, int code, int bits) {
  (void)type, (void)id, (void)code, (void)bits;
  return aligned_alloc(64, (bytes + 63) / 64 * 64);
}
static int release(int type, int id, void *data) {
  (void)type, (void)id;
  free(data);
  return 0;
}

/* The kernel calls the runtime through these pointers. */
int (*__TVMBackendParallelLaunch)(Body, void *, int) = run_here;
int (*__TVMBackendParallelBarrier)(int, Environment *) = pass;
void *(*__TVMBackendAllocWorkspace)(int, int, uint64_t, int, int) = allocate;
int (*__TVMBackendFreeWorkspace)(int, int, void *) = release;
void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t count) {
  fprintf(stderr, "%s: ", kind);
  for (int i = 0; i < count; i++) fputs(parts[i], stderr);
}
int KERNEL(void *self, const TVMFFIAny *arguments, int32_t count, TVMFFIAny *result);

static void must(int succeeded, const char *what) {
  if (succeeded) return;
  fprintf(stderr, "cannot %s\n", what);
  exit(1);
}

int main(void) {
  static DLTensor tensors[MOST];
  static int64_t shapes[MOST][MOST];
  TVMFFIAny arguments[MOST] = {0}, result = {0};
  int64_t kind[3];
  int32_t count = 0;
  size_t bytes = 0;
  for (; fread(kind, sizeof kind, 1, stdin) == 1; count++) {
    must(count < MOST && kind[2] < MOST, "take so many");
    int64_t *shape = shapes[count];
    must(fread(shape, sizeof *shape, (size_t)kind[2], stdin) == (size_t)kind[2], "read a shape");
    bytes = (size_t)kind[1] / 8;
    for (int64_t i = 0; i < kind[2]; i++) bytes *= (size_t)shape[i];
    void *data = allocate(0, 0, bytes, 0, 0);
    must(data && fread(data, 1, bytes, stdin) == bytes, "read a tensor");
    DLDataType dtype = {(uint8_t)kind[0], (uint8_t)kind[1], 1};
    tensors[count] = (DLTensor){data, {kDLCPU, 0}, (int32_t)kind[2], dtype, shape, NULL, 0};
    arguments[count].type_index = kTVMFFIDLTensorPtr;
    arguments[count].v_ptr = &tensors[count];
  }
  must(count > 0, "call it without arguments");
  must(KERNEL(NULL, arguments, count, &result) == 0, "compute");
  must(fwrite(tensors[count - 1].data, 1, bytes, stdout) == bytes, "write the result");
  return 0;
}
