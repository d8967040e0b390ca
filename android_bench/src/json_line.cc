#include "json_line.h"

#include <fcntl.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <stdexcept>

namespace edge {
namespace {

std::string Quoted(const std::string& text) {
  std::string out = "\"";
  for (unsigned char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c < 0x20) {
      char escape[8];
      std::snprintf(escape, sizeof(escape), "\\u%04x", c);
      out += escape;
    } else {
      out += static_cast<char>(c);
    }
  }
  return out + "\"";
}

std::string Number(double value) {
  if (!std::isfinite(value)) return "null";
  char text[32];
  std::snprintf(text, sizeof(text), "%.9g", value);
  return text;
}

// One write call for a whole line, repeated only where the kernel took less.
void WriteAll(int file, const std::string& text) {
  size_t done = 0;
  while (done < text.size()) {
    ssize_t n = write(file, text.data() + done, text.size() - done);
    if (n <= 0) return;
    done += static_cast<size_t>(n);
  }
}

}  // namespace

void JsonLine::Key(const std::string& name) {
  if (!text_.empty()) text_ += ",";
  text_ += Quoted(name) + ":";
}

JsonLine& JsonLine::Add(const std::string& name, const std::string& value) {
  Key(name);
  text_ += Quoted(value);
  return *this;
}

JsonLine& JsonLine::Add(const std::string& name, double value) {
  Key(name);
  text_ += Number(value);
  return *this;
}

JsonLine& JsonLine::Add(const std::string& name, int64_t value) {
  Key(name);
  text_ += std::to_string(value);
  return *this;
}

JsonLine& JsonLine::Add(const std::string& name, const std::vector<double>& values) {
  Key(name);
  text_ += "[";
  for (size_t i = 0; i < values.size(); ++i) text_ += (i ? "," : "") + Number(values[i]);
  text_ += "]";
  return *this;
}

JsonLine& JsonLine::Add(const std::string& name, const std::vector<int32_t>& values) {
  Key(name);
  text_ += "[";
  for (size_t i = 0; i < values.size(); ++i) text_ += (i ? "," : "") + std::to_string(values[i]);
  text_ += "]";
  return *this;
}

JsonLine& JsonLine::AddNull(const std::string& name) {
  Key(name);
  text_ += "null";
  return *this;
}

LineWriter::LineWriter(std::string run, const std::string& path) : run_(std::move(run)) {
  if (path.empty()) return;
  file_ = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (file_ < 0) throw std::runtime_error("cannot write " + path);
}

void LineWriter::Write(JsonLine line) {
  line.Add("run", run_);
  std::string text = line.Text() + "\n";
  std::lock_guard<std::mutex> lock(mutex_);
  if (file_ >= 0) {
    WriteAll(file_, text);
    fsync(file_);
  }
  WriteAll(STDOUT_FILENO, text);
}

}  // namespace edge
