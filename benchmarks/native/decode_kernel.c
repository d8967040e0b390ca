// Calls a compiled decode kernel once, without TVM's runtime: `decode_kernel KN|NK 16|32 K N`, with activations of 16 or 32 bits.
#include <dlpack/dlpack.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tvm/ffi/c_api.h>

typedef struct {
  void *sync;
  int32_t num_task;
} Environment;
typedef int (*Body)(int task, Environment *environment, void *data);

static int run_here(Body body, void *data, int tasks) {
  Environment environment = {NULL, tasks > 0 ? tasks : 1};
  for (int task = 0; task < environment.num_task; task++)
    if (body(task, &environment, data)) return 1;
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

// The kernel calls the runtime through these pointers.
int (*__TVMBackendParallelLaunch)(Body, void *, int) = run_here;
void *(*__TVMBackendAllocWorkspace)(int, int, uint64_t, int, int) = allocate;
int (*__TVMBackendFreeWorkspace)(int, int, void *) = release;
void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t count) {
  fprintf(stderr, "%s: ", kind);
  for (int i = 0; i < count; i++) fputs(parts[i], stderr);
}
int __tvm_ffi_w4_decode(void *self, const TVMFFIAny *arguments, int32_t count, TVMFFIAny *result);

typedef struct {
  DLTensor tensor;
  int64_t shape[3];
} Tensor;

static void fill(Tensor *tensor, TVMFFIAny *argument, int code, int bits, int ndim, int64_t a, int64_t b, int64_t c) {
  int64_t shape[3] = {a, b, c}, bytes = bits / 8;
  for (int i = 0; i < ndim; i++) bytes *= shape[i];
  memcpy(tensor->shape, shape, sizeof shape);
  void *data = aligned_alloc(64, (size_t)(bytes + 63) / 64 * 64);
  memset(data, 0, (size_t)bytes);
  tensor->tensor = (DLTensor){data, {kDLCPU, 0}, ndim, {(uint8_t)code, (uint8_t)bits, 1}, tensor->shape, NULL, 0};
  memset(argument, 0, sizeof *argument);
  argument->type_index = kTVMFFIDLTensorPtr;
  argument->v_ptr = &tensor->tensor;
}

int main(int count, char **words) {
  if (count != 5) return 2;
  int input_major = !strcmp(words[1], "KN"), bits = atoi(words[2]);
  int64_t k = atoll(words[3]), n = atoll(words[4]), groups = (k + 31) / 32;
  Tensor tensors[4];
  TVMFFIAny arguments[4], result = {0};
  fill(&tensors[0], &arguments[0], kDLFloat, bits, 3, 1, 1, k);
  fill(&tensors[1], &arguments[1], kDLUInt, 32, 2, input_major ? 4 * groups : n, input_major ? n : 4 * groups, 0);
  fill(&tensors[2], &arguments[2], kDLFloat, bits, 2, input_major ? groups : n, input_major ? n : groups, 0);
  fill(&tensors[3], &arguments[3], kDLFloat, bits, 3, 1, 1, n);
  return __tvm_ffi_w4_decode(NULL, arguments, 4, &result);
}
