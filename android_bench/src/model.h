// A model library with its weights and KV cache, driven as MLC-LLM's engine drives it for one sequence.
#pragma once

#include <tvm/ffi/container/array.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>

#include <cstdint>
#include <string>
#include <vector>

#include "options.h"

namespace edge {

/*! The model does not fit into the free memory. Thrown before the system would kill the process. */
struct LowMemory : std::runtime_error {
  LowMemory(int64_t needed, int64_t available);
  int64_t needed, available;
};

/*!
 * Functions and calling order are those of MLC-LLM's cpp/serve/model.cc and function_table.cc. The library is loaded with
 * `vm_load_executable` and `vm_initialization`, weights through `vm.builtin.tensor_cache.load`, and every forward pass
 * runs between `kv_state_begin_forward` and `kv_state_end_forward`.
 */
class Model {
 public:
  explicit Model(const Options& options);

  /*! Removes the sequence and adds an empty one. KV pages stay allocated. */
  void Reset();

  /*! Prefills in chunks of the library's prefill_chunk_size, and appends the seconds of each chunk to `chunks_s`. Returns
   * the most likely next token, chosen on the host. */
  int32_t Prefill(const std::vector<int32_t>& ids, std::vector<double>* chunks_s);

  /*! Runs one decode step; returns the most likely next token. */
  int32_t Decode(int32_t id);

  int64_t context_tokens() const { return context_tokens_; }
  int64_t prefill_chunk_tokens() const { return chunk_tokens_; }
  int64_t kv_bytes() const { return kv_bytes_; }
  int64_t weights_bytes() const { return weights_bytes_; }
  double load_s() const { return load_s_; }
  /*! Seconds to compile the device's kernels or to restore compiled ones; 0 on a CPU, NaN if the runtime can compile
   * kernels only by running them. */
  double kernel_build_s() const { return kernel_build_s_; }
  bool kernels_restored() const { return kernels_restored_; }
  int threads() const { return threads_; }

 private:
  void LoadLibrary(const Options& options);
  void BuildKernels(const Options& options);
  void ReadMetadata(const Options& options);
  void LoadWeights(const Options& options);
  void CreateCache(const Options& options);
  tvm::ffi::Function Need(const char* name);
  int32_t Forward(tvm::ffi::Function& function, const int32_t* ids, int64_t n);
  int32_t Likeliest(const tvm::ffi::Tensor& logits);

  DLDevice device_;
  tvm::ffi::Optional<tvm::ffi::Module> library_, vm_;
  tvm::ffi::Function embed_, prefill_, decode_, alloc_, view_, copy_in_, copy_out_, begin_, end_;
  tvm::ffi::Array<tvm::ffi::Any> params_;
  tvm::ffi::Array<tvm::ffi::String> param_names_;
  tvm::ffi::Any cache_;
  std::vector<float> logits_;
  int64_t context_tokens_ = 0, chunk_tokens_ = 0, kv_bytes_per_token_ = 0, kv_bytes_ = 0, weights_bytes_ = 0,
          workspace_bytes_ = 0;
  double load_s_ = 0, kernel_build_s_ = 0;
  bool kernels_restored_ = false;
  int threads_ = 0;
};

/*! Seconds on a steady clock. */
double Now();

}  // namespace edge
