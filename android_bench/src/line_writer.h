// JSON lines on stdout and, if asked for, in a file that outlives a lost connection.
#pragma once

#include <tvm/ffi/extra/json.h>

#include <atomic>
#include <initializer_list>
#include <mutex>
#include <string>
#include <utility>

namespace edge {

/*! The fields of a line, in order. */
class Fields {
 public:
  using Field = std::pair<const char*, tvm::ffi::json::Value>;

  explicit Fields(const char* kind) { Add({{"kind", tvm::ffi::String(kind)}}); }
  Fields& Add(std::initializer_list<Field> fields);
  const tvm::ffi::json::Object& object() const { return object_; }

 private:
  tvm::ffi::json::Object object_;
};

/*! A measured number; null if it is not finite, which JSON cannot write. */
tvm::ffi::json::Value Finite(double value);

/*! A JSON array. */
template <typename Values>
tvm::ffi::json::Array ToArray(const Values& values) {
  tvm::ffi::json::Array array;
  for (auto value : values) array.push_back(value);
  return array;
}

/*! Writes lines. Threads may share it: no line is interrupted by another. */
class LineWriter {
 public:
  /*! Every line ends with `run`, by which a reader recognizes its own. `path` may be empty. */
  LineWriter(std::string run, const std::string& path);
  void Write(Fields fields);
  /*! Whether the file has every line. */
  bool complete() const { return complete_; }

 private:
  std::string run_;
  int file_ = -1;
  std::atomic<bool> complete_{true};
  std::mutex mutex_;
};

}  // namespace edge
