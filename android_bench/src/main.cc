// edge-bench: measures latency and memory of a built model on the device that it runs on, and prints JSON lines.
//
// A repetition is what an engine does for one question: clear the KV cache, prefill the prompt in chunks, choose the
// first token on the host, and decode the rest one token at a time. Durations are taken on a steady clock.
#include <unistd.h>

#include <cstdio>
#include <ctime>
#include <exception>
#include <numeric>
#include <stdexcept>

#include "line_writer.h"
#include "model.h"
#include "options.h"
#include "process.h"

namespace edge {

namespace ffi = tvm::ffi;

namespace {

constexpr int kFailed = 1, kUsage = 2, kLowMemory = 3, kTimeout = 124, kAbandoned = 130;
constexpr int kBigCores = 1;  // TVM's ThreadGroup::kBig
constexpr double kMib = 1 << 20;

struct Repetition {
  double prefill_s = 0, e2e_s = 0;
  std::vector<double> chunks_s, steps_s;
  std::vector<int32_t> tokens;
};

// What the steady clock doesn't count would make a repetition too short.
constexpr double kMostSuspended = 0.01;

Repetition RunOnce(Model& model, const std::vector<int32_t>& prompt, int decode_tokens) {
  Repetition result;
  model.Reset();
  double suspended = SuspendedSeconds();
  double start = Now();
  int32_t token = model.Prefill(prompt, &result.chunks_s);
  result.prefill_s = Now() - start;
  result.tokens.push_back(token);
  for (int i = 1; i < decode_tokens; ++i) {
    double step = Now();
    token = model.Decode(token);
    result.steps_s.push_back(Now() - step);
    result.tokens.push_back(token);
  }
  result.e2e_s = Now() - start;
  suspended = SuspendedSeconds() - suspended;
  if (suspended > kMostSuspended) {
    char text[99];
    std::snprintf(text, sizeof(text), "the phone was suspended for %.2f s: keep it awake, or plug it in", suspended);
    throw std::runtime_error(text);
  }
  return result;
}

Fields& AddMemory(Fields& line) {
  return line.Add({{"rss_mib", StatusBytes("/proc/self/status", "VmRSS") / kMib},
                   {"peak_rss_mib", StatusBytes("/proc/self/status", "VmHWM") / kMib}});
}

// Number of the parity record's tokens that are generated before the first that differs.
int64_t AgreedTokens(Model& model, const Options& options) {
  Repetition result = RunOnce(model, options.check_prompt, static_cast<int>(options.check_tokens.size()));
  size_t same = 0;
  while (same < result.tokens.size() && result.tokens[same] == options.check_tokens[same]) ++same;
  return static_cast<int64_t>(same);
}

Fields Loaded(const Model& model) {
  Fields line("load");
  line.Add({{"load_s", model.load_s()},
            {"kernel_build_s", Finite(model.kernel_build_s())},
            {"kernels_restored", model.kernels_restored()},
            {"threads", model.threads()},
            {"weights_mib", model.weights_bytes() / kMib},
            {"kv_mib", model.kv_bytes() / kMib},
            {"context_tokens", model.context_tokens()},
            {"prefill_chunk_tokens", model.prefill_chunk_tokens()}});
  return AddMemory(line);
}

Fields Measured(const Repetition& result, const Options& options, int index, int64_t started_at) {
  Fields line("repetition");
  line.Add({{"index", index},
            {"started_at", started_at},
            {"prefill_tokens", static_cast<int64_t>(options.prompt.size())},
            {"decode_tokens", options.decode_tokens},
            {"ttft_s", result.prefill_s},
            {"prefill_s", result.prefill_s},
            {"prefill_chunks_s", ToArray(result.chunks_s)},
            {"decode_s", std::accumulate(result.steps_s.begin(), result.steps_s.end(), 0.0)},
            {"decode_steps_s", ToArray(result.steps_s)},
            {"e2e_s", result.e2e_s},
            {"tokens", ToArray(result.tokens)}});
  return AddMemory(line);
}

Fields Error(const char* code, const char* message) {
  return Fields("error").Add({{"code", ffi::String(code)}, {"message", ffi::String(message)}});
}

void Bench(const Options& options, LineWriter& out) {
  VolunteerForOom();
  // By itself, TVM's pool uses no more of its threads than there are cores but the slowest ones.
  if (int threads = ChooseCores(options.threads, options.cores)) {
    ffi::Function::GetGlobalRequired("runtime.config_threadpool")(kBigCores, threads);
  }
  out.Write(Fields("start").Add({{"pid", static_cast<int64_t>(getpid())}}));

  Model model(options);
  out.Write(Loaded(model));
  if (!options.check_prompt.empty()) {
    int64_t agreed = AgreedTokens(model, options);
    out.Write(Fields("check").Add(
        {{"tokens_checked", static_cast<int64_t>(options.check_tokens.size())}, {"tokens_agreed", agreed}}));
  }
  for (int i = 0; i < options.warmups; ++i) {
    Repetition result = RunOnce(model, options.prompt, options.decode_tokens);
    out.Write(Fields("warmup").Add({{"e2e_s", result.e2e_s}}));
  }
  for (int i = 0; i < options.repetitions; ++i) {
    int64_t started_at = static_cast<int64_t>(std::time(nullptr));
    out.Write(Measured(RunOnce(model, options.prompt, options.decode_tokens), options, i, started_at));
  }
  Fields last("final");
  last.Add({{"repetitions", options.repetitions}});
  out.Write(AddMemory(last));
}

int Main(int argc, char** argv) {
  Options options;
  try {
    options = ParseOptions(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "edge-bench: %s\n%s", error.what(), Usage());
    return kUsage;
  }
  // Never destroyed, because the watchers may still write while the process ends.
  LineWriter* writer = nullptr;
  try {
    writer = new LineWriter(options.run, options.output);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "edge-bench: %s\n", error.what());
    return kFailed;
  }
  LineWriter& out = *writer;
  if (options.watch_stdin) WatchStdin([] { _exit(kAbandoned); });
  if (options.timeout_s > 0) {
    WatchClock(options.timeout_s, [&out] {
      out.Write(Error("timeout", "took longer than --timeout"));
      _exit(kTimeout);
    });
  }
  try {
    Bench(options, out);
    if (out.complete()) return 0;
    std::fprintf(stderr, "edge-bench: cannot write all lines to %s\n", options.output.c_str());
    return kFailed;
  } catch (const LowMemory& error) {
    out.Write(Error("low_memory", error.what()));
    return kLowMemory;
  } catch (const std::exception& error) {
    out.Write(Error("failed", error.what()));
    return kFailed;
  }
}

}  // namespace
}  // namespace edge

int main(int argc, char** argv) {
  int code = edge::Main(argc, argv);
  // Not exit: the runtime's thread pool and OpenCL drivers sometimes hang in their destructors.
  std::fflush(nullptr);
  _exit(code);
}
