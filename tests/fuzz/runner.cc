// The runner's command line and the lines that it writes, given any bytes: up to a zero byte the words, one a line, in
// which "@" is a file of token ids; then that file.
#include <getopt.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "line_writer.h"
#include "options.h"

namespace {

void Require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "broken: %s\n", what);
  std::abort();
}

const std::string& Scratch(const char* name) {
  static std::string directory = [] {
    char pattern[] = "/tmp/edge-fuzz-XXXXXX";
    Require(mkdtemp(pattern) != nullptr, "a scratch directory");
    return std::string(pattern);
  }();
  static std::string path;
  return path = directory + "/" + name;
}

// A line holds its values, and nothing in them ends it.
void WriteAndRead(const edge::Options& options, const std::string& message) {
  std::string path = Scratch("lines");
  unlink(path.c_str());
  {
    edge::LineWriter out(options.run, path);
    edge::Fields line("error");
    out.Write(line.Add({{"message", tvm::ffi::String(message)},
                        {"tokens", edge::ToArray(options.prompt)},
                        {"rate", edge::Finite(options.timeout_s / options.threads)}}));
    Require(out.complete(), "a complete file");
  }
  std::ifstream file(path);
  std::string text, more;
  Require(static_cast<bool>(std::getline(file, text)) && !std::getline(file, more), "one line");
  tvm::ffi::json::Object read = tvm::ffi::json::Parse(text).cast<tvm::ffi::json::Object>();
  auto string_of = [&](const char* name) { return std::string(read[tvm::ffi::String(name)].cast<tvm::ffi::String>()); };
  Require(string_of("message") == message && string_of("run") == options.run, "the same strings");
  auto tokens = read[tvm::ffi::String("tokens")].cast<tvm::ffi::json::Array>();
  Require(tokens.size() == options.prompt.size(), "as many tokens");
  for (size_t i = 0; i < options.prompt.size(); ++i) {
    Require(tokens[i].cast<int64_t>() == options.prompt[i], "the same tokens");
  }
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  Require(std::freopen("/dev/null", "w", stdout) != nullptr, "no output");
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string all(reinterpret_cast<const char*>(data), size);
  size_t end = all.find('\0');
  std::string file = end == std::string::npos ? "" : all.substr(end + 1), ids = Scratch("ids");
  std::ofstream(ids, std::ios::binary) << file;

  std::vector<std::string> words = {"edge-bench"};
  std::istringstream lines(all.substr(0, end));
  for (std::string word; std::getline(lines, word);) {
    if (word == "@") word = ids;
    // No other file is opened, such as a device that has no end.
    if (word.find('/') != std::string::npos && word != ids) return -1;
    words.push_back(word);
  }
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);

  optind = 0;  // glibc's getopt starts again
  edge::Options options;
  try {
    options = edge::ParseOptions(static_cast<int>(words.size()), argv.data());
  } catch (const std::invalid_argument&) {
    return 0;
  }
  Require(!options.prompt.empty() && options.decode_tokens > 0 && options.repetitions > 0, "something to measure");
  Require(options.warmups >= 0 && options.threads >= 0 && options.timeout_s >= 0, "nothing negative");
  Require(options.check_prompt.empty() == options.check_tokens.empty(), "a whole parity record");
  for (int core : options.cores) Require(core >= 0 && core < 1024, "cores that a mask holds");
  WriteAndRead(options, file);
  return 0;
}
