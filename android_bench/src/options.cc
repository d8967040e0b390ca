#include "options.h"

#include <getopt.h>

#include <climits>
#include <fstream>
#include <sstream>
#include <stdexcept>

namespace edge {
namespace {

std::vector<int32_t> ReadIds(const std::string& path, int line_number) {
  std::ifstream file(path);
  if (!file) throw std::invalid_argument("cannot read " + path);
  std::string line;
  for (int i = 0; i <= line_number; ++i) {
    if (!std::getline(file, line)) throw std::invalid_argument(path + " has too few lines");
  }
  std::istringstream words(line);
  std::vector<int32_t> ids;
  for (int32_t id; words >> id;) ids.push_back(id);
  if (!words.eof()) throw std::invalid_argument(path + " holds something other than token ids");
  if (ids.empty()) throw std::invalid_argument(path + " holds no token ids");
  return ids;
}

int ReadInt(const std::string& name, const std::string& text, int least, int most = INT_MAX) {
  size_t used = 0;
  int value = 0;
  try {
    value = std::stoi(text, &used);
  } catch (const std::exception&) {
    used = 0;
  }
  if (used == 0 || used != text.size() || value < least || value > most) {
    throw std::invalid_argument(name + " is '" + text + "', not an integer of at least " + std::to_string(least) +
                                (most == INT_MAX ? "" : " and at most " + std::to_string(most)));
  }
  return value;
}

constexpr int kMostCores = 1024;  // those of a cpu_set_t

// "0,4-7" is 0 4 5 6 7.
std::vector<int> ReadCores(const std::string& text) {
  std::vector<int> cores;
  std::istringstream parts(text);
  for (std::string part; std::getline(parts, part, ',');) {
    size_t dash = part.find('-');
    int first = ReadInt("--cores", part.substr(0, dash), 0);
    int last = dash == std::string::npos ? first : ReadInt("--cores", part.substr(dash + 1), first);
    if (last >= kMostCores) throw std::invalid_argument("--cores names core " + std::to_string(last));
    for (int core = first; core <= last; ++core) cores.push_back(core);
  }
  return cores;
}

enum Name {
  kModel = 1, kLibrary, kSystemLibPrefix, kDevice, kPrompt, kCheck, kDecode, kWarmups, kRepetitions, kThreads, kCores,
  kTimeout, kIgnoreMemory, kWatchStdin, kRun, kOutput, kPrograms
};

const option kOptions[] = {
    {"model", required_argument, nullptr, kModel},
    {"library", required_argument, nullptr, kLibrary},
    {"system-lib-prefix", required_argument, nullptr, kSystemLibPrefix},
    {"device", required_argument, nullptr, kDevice},
    {"prompt", required_argument, nullptr, kPrompt},
    {"check", required_argument, nullptr, kCheck},
    {"decode", required_argument, nullptr, kDecode},
    {"warmups", required_argument, nullptr, kWarmups},
    {"repetitions", required_argument, nullptr, kRepetitions},
    {"threads", required_argument, nullptr, kThreads},
    {"cores", required_argument, nullptr, kCores},
    {"timeout", required_argument, nullptr, kTimeout},
    {"ignore-memory", no_argument, nullptr, kIgnoreMemory},
    {"watch-stdin", no_argument, nullptr, kWatchStdin},
    {"run", required_argument, nullptr, kRun},
    {"output", required_argument, nullptr, kOutput},
    {"programs", required_argument, nullptr, kPrograms},
    {nullptr, 0, nullptr, 0},
};

void Set(Options& options, int name, const std::string& value) {
  switch (name) {
    case kModel: options.model = value; break;
    case kLibrary: options.library = value; break;
    case kSystemLibPrefix: options.system_lib_prefix = value; break;
    case kDevice: options.device = value; break;
    case kPrompt: options.prompt = ReadIds(value, 0); break;
    case kCheck:
      options.check_prompt = ReadIds(value, 0);
      options.check_tokens = ReadIds(value, 1);
      break;
    case kDecode: options.decode_tokens = ReadInt("--decode", value, 1); break;
    case kWarmups: options.warmups = ReadInt("--warmups", value, 0); break;
    case kRepetitions: options.repetitions = ReadInt("--repetitions", value, 1); break;
    case kThreads: options.threads = ReadInt("--threads", value, 0, kMostCores); break;
    case kCores: options.cores = ReadCores(value); break;
    case kTimeout: options.timeout_s = ReadInt("--timeout", value, 0); break;
    case kIgnoreMemory: options.ignore_memory = true; break;
    case kWatchStdin: options.watch_stdin = true; break;
    case kRun: options.run = value; break;
    case kOutput: options.output = value; break;
    case kPrograms: options.programs = value; break;
  }
}

}  // namespace

Options ParseOptions(int argc, char** argv) {
  Options options;
  opterr = 0;  // our messages, not getopt's
  // ":" tells a missing value from an unknown option.
  for (int name; (name = getopt_long(argc, argv, ":", kOptions, nullptr)) != -1;) {
    std::string word = argv[optind - 1];
    if (name == '?') throw std::invalid_argument("unknown option " + word);
    if (name == ':') throw std::invalid_argument(word + " needs a value");
    Set(options, name, optarg == nullptr ? "" : optarg);
  }
  if (optind < argc) throw std::invalid_argument(std::string("'") + argv[optind] + "' is not an option");
  if (options.model.empty() || options.library.empty() || options.prompt.empty()) {
    throw std::invalid_argument("--model, --library and --prompt are needed");
  }
  if (options.device != "cpu" && options.device != "opencl") {
    throw std::invalid_argument("--device is '" + options.device + "', not cpu or opencl");
  }
  return options;
}

const char* Usage() {
  return "edge-bench --model DIR --library FILE.so --prompt FILE [--decode N] [--device cpu|opencl]\n"
         "  [--repetitions N] [--warmups N] [--threads N] [--cores 4-7] [--timeout SECONDS] [--check FILE]\n"
         "  [--system-lib-prefix NAME] [--programs FILE] [--output FILE] [--run NAME] [--watch-stdin]\n"
         "  [--ignore-memory]\n"
         "FILE of --prompt: token ids on one line. FILE of --check: the ids of a prompt, and on the next line the ids\n"
         "that must follow it. Prints one JSON line for each repetition, and a final one.\n";
}

}  // namespace edge
