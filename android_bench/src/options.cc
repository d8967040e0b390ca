#include "options.h"

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
  if (!words.eof()) throw std::invalid_argument(path + " holds something else than token ids");
  if (ids.empty()) throw std::invalid_argument(path + " holds no token ids");
  return ids;
}

int ReadInt(const std::string& name, const std::string& text, int least) {
  size_t used = 0;
  int value = 0;
  try {
    value = std::stoi(text, &used);
  } catch (const std::exception&) {
    used = 0;
  }
  if (used == 0 || used != text.size() || value < least) {
    throw std::invalid_argument(name + " is '" + text + "', not a whole number of at least " + std::to_string(least));
  }
  return value;
}

// "0,4-7" as 0 4 5 6 7.
std::vector<int> ReadCores(const std::string& text) {
  std::vector<int> cores;
  std::istringstream parts(text);
  for (std::string part; std::getline(parts, part, ',');) {
    size_t dash = part.find('-');
    int first = ReadInt("--cores", part.substr(0, dash), 0);
    int last = dash == std::string::npos ? first : ReadInt("--cores", part.substr(dash + 1), first);
    for (int core = first; core <= last; ++core) cores.push_back(core);
  }
  return cores;
}

}  // namespace

Options ParseOptions(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    std::string name = argv[i];
    if (name == "--watch-stdin") {
      options.watch_stdin = true;
      continue;
    }
    if (i + 1 == argc) throw std::invalid_argument(name + " needs a value, or is unknown");
    std::string value = argv[++i];
    if (name == "--model") options.model = value;
    else if (name == "--library") options.library = value;
    else if (name == "--system-lib-prefix") options.system_lib_prefix = value;
    else if (name == "--device") options.device = value;
    else if (name == "--prompt") options.prompt = ReadIds(value, 0);
    else if (name == "--check") options.check_prompt = ReadIds(value, 0), options.check_tokens = ReadIds(value, 1);
    else if (name == "--decode") options.decode_tokens = ReadInt(name, value, 1);
    else if (name == "--warmups") options.warmups = ReadInt(name, value, 0);
    else if (name == "--repetitions") options.repetitions = ReadInt(name, value, 1);
    else if (name == "--threads") options.threads = ReadInt(name, value, 0);
    else if (name == "--cores") options.cores = ReadCores(value);
    else if (name == "--timeout") options.timeout_s = ReadInt(name, value, 0);
    else if (name == "--run") options.run = value;
    else if (name == "--output") options.output = value;
    else if (name == "--programs") options.programs = value;
    else throw std::invalid_argument("unknown option " + name);
  }
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
         "FILE of --prompt: token ids on one line. FILE of --check: a prompt's ids, and on the next line the ids\n"
         "that must follow it. One JSON line a repetition comes out, and a final one.\n";
}

}  // namespace edge
