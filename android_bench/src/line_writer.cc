#include "line_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <cmath>
#include <stdexcept>

namespace edge {

namespace ffi = tvm::ffi;

namespace {

// One write call for a complete line, repeated only if the kernel took less. Returns whether all of it was written.
bool WriteAll(int file, const std::string& text) {
  size_t done = 0;
  while (done < text.size()) {
    ssize_t n = write(file, text.data() + done, text.size() - done);
    if (n <= 0) return false;
    done += static_cast<size_t>(n);
  }
  return true;
}

}  // namespace

Fields& Fields::Add(std::initializer_list<Field> fields) {
  for (const auto& [name, value] : fields) object_.Set(ffi::String(name), value);
  return *this;
}

ffi::json::Value Finite(double value) { return std::isfinite(value) ? ffi::json::Value(value) : ffi::json::Value(nullptr); }

LineWriter::LineWriter(std::string run, const std::string& path) : run_(std::move(run)) {
  if (path.empty()) return;
  file_ = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (file_ < 0) throw std::runtime_error("cannot write " + path);
}

void LineWriter::Write(Fields fields) {
  fields.Add({{"run", ffi::String(run_)}});
  std::string text = std::string(ffi::json::Stringify(fields.object())) + "\n";
  std::lock_guard<std::mutex> lock(mutex_);
  if (file_ >= 0) {
    if (!WriteAll(file_, text)) complete_ = false;
    fsync(file_);
  }
  WriteAll(STDOUT_FILENO, text);  // a connection that is lost, and the file outlives it
}

}  // namespace edge
