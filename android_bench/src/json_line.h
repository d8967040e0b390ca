// JSON lines on stdout and, when asked for, in a file that outlives a lost connection.
#pragma once

#include <cstdint>
#include <mutex>
#include <sstream>
#include <string>
#include <vector>

namespace edge {

/*! A JSON object on one line, written field by field. */
class JsonLine {
 public:
  explicit JsonLine(const std::string& kind) { Add("kind", kind); }

  JsonLine& Add(const std::string& name, const std::string& value);
  JsonLine& Add(const std::string& name, const char* value) { return Add(name, std::string(value)); }
  JsonLine& Add(const std::string& name, double value);
  JsonLine& Add(const std::string& name, int64_t value);
  JsonLine& Add(const std::string& name, int value) { return Add(name, static_cast<int64_t>(value)); }
  JsonLine& Add(const std::string& name, const std::vector<double>& values);
  JsonLine& Add(const std::string& name, const std::vector<int32_t>& values);
  JsonLine& AddNull(const std::string& name);

  std::string Text() const { return "{" + text_ + "}"; }

 private:
  void Key(const std::string& name);
  std::string text_;
};

/*! Where lines go. Threads may share it: a line is never cut by another. */
class LineWriter {
 public:
  /*! Every line carries `run`, so that a reader knows its own; `path` may be empty. */
  LineWriter(std::string run, const std::string& path);
  void Write(JsonLine line);

 private:
  std::string run_;
  int file_ = -1;
  std::mutex mutex_;
};

}  // namespace edge
