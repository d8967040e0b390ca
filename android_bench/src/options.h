// The command line of the runner.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace edge {

struct Options {
  std::string model;              // directory with tensor-cache.json and its shards
  std::string library;            // the model library, a shared object
  std::string system_lib_prefix;  // set if the library registers itself as a system library
  std::string device = "cpu";     // cpu or opencl
  std::vector<int32_t> prompt;    // token ids to prefill
  std::vector<int32_t> check_prompt, check_tokens;  // the parity record: greedy tokens known to follow a prompt
  int decode_tokens = 64;         // tokens to generate, including the first, which the prefill gives
  int warmups = 1;
  int repetitions = 1;
  int threads = 0;                // 0: the runtime's own choice
  std::vector<int> cores;         // empty: any
  double timeout_s = 0;           // 0: none
  bool ignore_memory = false;     // load a model that free memory can't hold
  bool watch_stdin = false;       // end when stdin is closed, because the bench that started us is gone
  std::string run;                // repeated on every line
  std::string output;             // a file that every line is also written to
  std::string programs;           // where compiled OpenCL programs are kept between runs
};

/*! Parses the command line; throws std::invalid_argument with a message for people. */
Options ParseOptions(int argc, char** argv);

const char* Usage();

}  // namespace edge
