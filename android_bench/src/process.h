// What the runner asks of the operating system: memory, cores, watchers.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

namespace edge {

/*! A field of /proc/self/status or /proc/meminfo in bytes, -1 when it is not told. */
int64_t StatusBytes(const char* file, const char* field);

/*! Threads and cores for the runtime's pool, set before the runtime starts it. */
void ChooseCores(int threads, const std::vector<int>& cores);

/*! Ask the kernel to kill this process before others when memory runs out. */
void VolunteerForOom();

/*! Call `gone` when stdin is closed, from a thread of its own. */
void WatchStdin(std::function<void()> gone);

/*! Call `expired` after so many seconds, from a thread of its own. */
void WatchClock(double seconds, std::function<void()> expired);

}  // namespace edge
