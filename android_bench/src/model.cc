#include "model.h"

#include <dlfcn.h>
#include <tvm/ffi/container/map.h>
#include <tvm/ffi/container/shape.h>
#include <tvm/ffi/extra/json.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <limits>
#include <stdexcept>

#include "process.h"
#include "programs.h"

namespace edge {

namespace ffi = tvm::ffi;

namespace {

constexpr int64_t kPageTokens = 16;   // tokens in a KV page: PAGE_SIZE in edge_transact/costs.py
constexpr int kPooledAllocator = 2;   // tvm::runtime::memory::AllocatorType::kPooled
constexpr int64_t kSequence = 0;

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// The runtime's parser calls itself for each level.
constexpr int kMostLevels = 64;

void CheckDepth(const std::string& text, const std::string& what) {
  int levels = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    char c = text[i];
    if (in_string && c == '\\') {
      ++i;
    } else if (c == '"') {
      in_string = !in_string;
    } else if (!in_string && (c == '[' || c == '{')) {
      if (++levels > kMostLevels) throw std::runtime_error(what + " is nested too deep");
    } else if (!in_string && (c == ']' || c == '}')) {
      --levels;
    }
  }
}

ffi::json::Object ParseObject(const std::string& text, const std::string& what) {
  CheckDepth(text, what);
  ffi::String error;
  auto object = ffi::json::Parse(text, &error).try_cast<ffi::json::Object>();
  if (!object.has_value()) throw std::runtime_error(what + " is missing or not a JSON object");
  return object.value();
}

int64_t GetInt(const ffi::json::Object& object, const char* name) {
  auto found = object.Get(ffi::Any(ffi::String(name)));
  auto value = found.has_value() ? found.value().try_cast<int64_t>() : std::nullopt;
  if (!value.has_value()) {
    throw std::runtime_error(std::string("no number '") + name + "' in the library's _metadata or tensor-cache.json");
  }
  return value.value();
}

ffi::json::Object GetObject(const ffi::json::Object& object, const char* name) {
  return object.at(ffi::Any(ffi::String(name))).cast<ffi::json::Object>();
}

}  // namespace

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

LowMemory::LowMemory(int64_t needed, int64_t available)
    : std::runtime_error("the model needs " + std::to_string(needed >> 20) + " MiB, and " +
                         std::to_string(available >> 20) + " MiB are available"),
      needed(needed),
      available(available) {}

Model::Model(const Options& options) : device_{options.device == "opencl" ? kDLOpenCL : kDLCPU, 0} {
  double start = Now();
  LoadLibrary(options);
  ReadMetadata(options);
  double kernels = Now();
  BuildKernels(options);
  kernels = Now() - kernels;
  Need("vm_initialization")(static_cast<int>(device_.device_type), device_.device_id, kPooledAllocator,
                            static_cast<int>(kDLCPU), 0, kPooledAllocator);
  embed_ = Need("embed");
  prefill_ = Need("prefill");
  decode_ = Need("decode");
  alloc_ = ffi::Function::GetGlobalRequired("runtime.TVMTensorAllocWithScope");
  view_ = ffi::Function::GetGlobalRequired("runtime.TVMTensorCreateView");
  copy_in_ = ffi::Function::GetGlobalRequired("runtime.TVMTensorCopyFromBytes");
  copy_out_ = ffi::Function::GetGlobalRequired("runtime.TVMTensorCopyToBytes");
  begin_ = ffi::Function::GetGlobalRequired("vm.builtin.kv_state_begin_forward");
  end_ = ffi::Function::GetGlobalRequired("vm.builtin.kv_state_end_forward");
  LoadWeights(options);
  CreateCache(options);
  threads_ = ffi::Function::GetGlobalRequired("runtime.NumThreads")().cast<int>();
  load_s_ = Now() - start - kernels;
}

void Model::LoadLibrary(const Options& options) {
  if (options.system_lib_prefix.empty()) {
    library_ = ffi::Module::LoadFromFile(options.library);
  } else {
    if (dlopen(options.library.c_str(), RTLD_NOW | RTLD_GLOBAL) == nullptr) throw std::runtime_error(dlerror());
    library_ = ffi::Function::GetGlobalRequired("ffi.SystemLib")(ffi::String(options.system_lib_prefix))
                   .cast<ffi::Module>();
  }
  auto load = library_.value()->GetFunction("vm_load_executable");
  if (!load.has_value()) throw std::runtime_error(options.library + " has no vm_load_executable: not a model library");
  vm_ = load.value()().cast<ffi::Module>();
}

void Model::BuildKernels(const Options& options) {
  if (device_.device_type == kDLCPU) return;
  auto get = library_.value()->GetFunction("opencl.GetPreCompiledPrograms", true);
  auto set = library_.value()->GetFunction("opencl.SetPreCompiledPrograms", true);
  if (!get.has_value() || !set.has_value()) {
    kernel_build_s_ = std::numeric_limits<double>::quiet_NaN();
    return;
  }
  double start = Now();
  kernels_restored_ = RestoreOrBuild(
      options.programs, [&]() -> std::string { return get.value()().cast<ffi::String>(); },
      [&](const std::string& programs) { set.value()(ffi::String(programs)); });
  kernel_build_s_ = Now() - start;
}

void Model::ReadMetadata(const Options& options) {
  // A second VM, on the CPU, reads the metadata without touching the device. It says how much memory the rest needs.
  auto vm = library_.value()->GetFunction("vm_load_executable").value()().cast<ffi::Module>();
  vm->GetFunction("vm_initialization").value()(static_cast<int>(kDLCPU), 0, kPooledAllocator);
  auto describe = vm->GetFunction("_metadata");
  if (!describe.has_value()) throw std::runtime_error("the library has no function '_metadata'");
  std::string text = describe.value()().cast<ffi::String>();
  auto metadata = ParseObject(text, "_metadata");
  chunk_tokens_ = GetInt(metadata, "prefill_chunk_size");
  // The last token is chosen but never fed back.
  int64_t most = std::max<int64_t>(options.prompt.size() + options.decode_tokens,
                                   options.check_prompt.size() + options.check_tokens.size()) - 1;
  context_tokens_ = GetInt(metadata, "context_window_size");
  if (context_tokens_ <= 0) context_tokens_ = most;
  if (most > context_tokens_) {
    throw std::runtime_error("the library's context is " + std::to_string(context_tokens_) + " tokens, and " +
                             std::to_string(most) + " are asked for");
  }
  auto cache = GetObject(metadata, "kv_cache");
  std::string quantization = metadata.at(ffi::Any(ffi::String("quantization"))).cast<ffi::String>();
  int64_t value_bytes = quantization.find("f32") == std::string::npos ? 2 : 4;
  kv_bytes_per_token_ = 2 * GetInt(cache, "num_hidden_layers") * GetInt(cache, "num_key_value_heads") *
                        GetInt(cache, "head_dim") * value_bytes;
  for (const auto& entry : GetObject(metadata, "memory_usage")) {
    workspace_bytes_ = std::max(workspace_bytes_, entry.second.cast<int64_t>());
  }
  for (const auto& entry : metadata.at(ffi::Any(ffi::String("params"))).cast<ffi::json::Array>()) {
    auto param = entry.cast<ffi::json::Object>();
    std::string name = param.at(ffi::Any(ffi::String("name"))).cast<ffi::String>();
    param_names_.push_back(name);
    if (name.rfind("model.embed_tokens.", 0) != 0) continue;
    // The library would read rows of the embedding by any number.
    auto rows = param.at(ffi::Any(ffi::String("shape"))).cast<ffi::json::Array>()[0].cast<int64_t>();
    for (const auto* ids : {&options.prompt, &options.check_prompt}) {
      for (int32_t id : *ids) {
        if (id >= 0 && id < rows) continue;
        throw std::runtime_error("token " + std::to_string(id) + " is outside the vocabulary of " +
                                 std::to_string(rows));
      }
    }
  }
}

void Model::LoadWeights(const Options& options) {
  auto index = ParseObject(ReadFile(options.model + "/tensor-cache.json"), options.model + "/tensor-cache.json");
  for (const auto& entry : index.at(ffi::Any(ffi::String("records"))).cast<ffi::json::Array>()) {
    auto shard = entry.cast<ffi::json::Object>();
    int64_t nbytes = GetInt(shard, "nbytes");
    weights_bytes_ += nbytes;
    // The runtime copies from any offset.
    for (const auto& param : shard.at(ffi::Any(ffi::String("records"))).cast<ffi::json::Array>()) {
      int64_t offset = GetInt(param.cast<ffi::json::Object>(), "byteOffset");
      int64_t size = GetInt(param.cast<ffi::json::Object>(), "nbytes");
      if (nbytes >= 0 && offset >= 0 && size >= 0 && size <= nbytes && offset <= nbytes - size) continue;
      throw std::runtime_error(options.model + "/tensor-cache.json has a parameter outside its file");
    }
  }
  int64_t available = StatusBytes("/proc/meminfo", "MemAvailable");
  int64_t needed = weights_bytes_ + workspace_bytes_ + kv_bytes_per_token_ * context_tokens_;
  if (!options.ignore_memory && available >= 0 && needed > available) throw LowMemory(needed, available);
  ffi::Function::GetGlobalRequired("vm.builtin.tensor_cache.load")(
      ffi::String(options.model), static_cast<int>(device_.device_type), device_.device_id);
  params_ = ffi::Function::GetGlobalRequired("vm.builtin.param_array_from_cache_by_name")(param_names_)
                .cast<ffi::Array<ffi::Any>>();
  // The array holds the tensors now, so the cache need not.
  ffi::Function::GetGlobalRequired("vm.builtin.tensor_cache.clear")();
}

void Model::CreateCache(const Options& options) {
  cache_ = Need("create_tir_paged_kv_cache")(ffi::Shape({1}), ffi::Shape({context_tokens_}), ffi::Shape({chunk_tokens_}),
                                             ffi::Shape({kPageTokens}), ffi::Shape({0}));
  // The runtime's paged cache keeps one page more than the tokens need.
  int64_t pages = (context_tokens_ + kPageTokens - 1) / kPageTokens + 1;
  kv_bytes_ = pages * kPageTokens * kv_bytes_per_token_;
}

ffi::Function Model::Need(const char* name) {
  auto function = vm_.value()->GetFunction(name);
  if (!function.has_value()) throw std::runtime_error(std::string("the library has no function '") + name + "'");
  return function.value();
}

void Model::Reset() {
  ffi::Function::GetGlobalRequired("vm.builtin.kv_state_clear")(cache_);
  ffi::Function::GetGlobalRequired("vm.builtin.kv_state_add_sequence")(cache_, kSequence);
}

int32_t Model::Prefill(const std::vector<int32_t>& ids, std::vector<double>* chunks_s) {
  int32_t next = 0;
  for (size_t done = 0; done < ids.size();) {
    double start = Now();
    int64_t n = std::min<int64_t>(chunk_tokens_, ids.size() - done);
    next = Forward(prefill_, ids.data() + done, n);
    chunks_s->push_back(Now() - start);
    done += n;
  }
  return next;
}

int32_t Model::Decode(int32_t id) { return Forward(decode_, &id, 1); }

int32_t Model::Forward(ffi::Function& function, const int32_t* ids, int64_t n) {
  auto tokens = alloc_(ffi::Shape({n}), DLDataType{kDLInt, 32, 1}, device_, ffi::Optional<ffi::String>()).cast<ffi::Tensor>();
  copy_in_(tokens, static_cast<void*>(const_cast<int32_t*>(ids)), n * static_cast<int64_t>(sizeof(int32_t)));
  begin_(cache_, ffi::Shape({kSequence}), ffi::Shape({n}));
  auto embedded = embed_(tokens, params_).cast<ffi::Tensor>();
  int64_t hidden = embedded.shape()[embedded.ndim() - 1];
  auto batched = view_(embedded, ffi::Shape({1, n, hidden}), embedded.dtype(), 0).cast<ffi::Tensor>();
  ffi::Any result = function(batched, cache_, params_);
  end_(cache_);
  auto logits = result.try_cast<ffi::Tensor>();
  return Likeliest(logits.has_value() ? logits.value() : result.cast<ffi::Array<ffi::Any>>()[0].cast<ffi::Tensor>());
}

int32_t Model::Likeliest(const ffi::Tensor& logits) {
  if (logits.dtype().code != kDLFloat || logits.dtype().bits != 32) {
    throw std::runtime_error("the library's logits are not float32");
  }
  logits_.resize(logits.numel());
  copy_out_(logits, static_cast<void*>(logits_.data()), static_cast<int64_t>(logits_.size() * sizeof(float)));
  auto row = logits_.end() - logits.shape()[logits.ndim() - 1];
  return static_cast<int32_t>(std::max_element(row, logits_.end()) - row);
}

}  // namespace edge
