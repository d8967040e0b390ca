#include "process.h"

#include <sched.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fstream>
#include <stdexcept>
#include <string>
#include <thread>

namespace edge {

int64_t StatusBytes(const char* file, const char* field) {
  std::ifstream status(file);
  for (std::string line; std::getline(status, line);) {
    if (line.compare(0, std::strlen(field), field) == 0 && line[std::strlen(field)] == ':') {
      return std::strtoll(line.c_str() + std::strlen(field) + 1, nullptr, 10) * 1024;
    }
  }
  return -1;
}

int ChooseCores(int threads, const std::vector<int>& cores) {
  if (!cores.empty()) {
    cpu_set_t set;
    CPU_ZERO(&set);
    for (int core : cores) {
      if (core < CPU_SETSIZE) CPU_SET(core, &set);
    }
    if (sched_setaffinity(0, sizeof(set), &set) != 0) {
      throw std::runtime_error(std::string("--cores: ") + std::strerror(errno));
    }
    // The pool's threads inherit this mask; the pool's own binding would widen it again.
    setenv("TVM_BIND_THREADS", "0", 1);
    if (threads == 0) threads = static_cast<int>(cores.size());
  }
  if (threads > 0) setenv("TVM_NUM_THREADS", std::to_string(threads).c_str(), 1);
  return threads;
}

double SuspendedSeconds() {
  auto seconds = [](clockid_t clock) {
    timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec + now.tv_nsec * 1e-9;
  };
  double suspended = 0, narrowest = 1e9;
  // Other threads may run between two readings, so the closest ones count.
  for (int i = 0; i < 5; ++i) {
    double before = seconds(CLOCK_MONOTONIC), boot = seconds(CLOCK_BOOTTIME), after = seconds(CLOCK_MONOTONIC);
    if (after - before >= narrowest) continue;
    narrowest = after - before;
    suspended = boot - (before + after) / 2;
  }
  return suspended;
}

void VolunteerForOom() {
  std::ofstream("/proc/self/oom_score_adj") << 1000;
}

void WatchStdin(std::function<void()> gone) {
  std::thread([gone = std::move(gone)] {
    char byte;
    while (true) {
      ssize_t n = read(STDIN_FILENO, &byte, 1);
      if (n == 0 || (n < 0 && errno != EINTR)) break;
    }
    gone();
  }).detach();
}

void WatchClock(double seconds, std::function<void()> expired) {
  std::thread([seconds, expired = std::move(expired)] {
    std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
    expired();
  }).detach();
}

}  // namespace edge
