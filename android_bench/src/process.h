// Memory, cores and watchers: what the runner needs from the operating system.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

namespace edge {

/*! A field of /proc/self/status or /proc/meminfo, in bytes; -1 if the system doesn't report it. */
int64_t StatusBytes(const char* file, const char* field);

/*! Sets threads and cores of the runtime's thread pool; returns the threads, or 0 for the runtime's own choice. Call it
 *  before the runtime starts the pool. */
int ChooseCores(int threads, const std::vector<int>& cores);

/*! Seconds since boot in which the phone was suspended: the boot clock counts them, and the steady clock doesn't. */
double SuspendedSeconds();

/*! Asks the kernel to kill this process before others if memory runs out. */
void VolunteerForOom();

/*! Calls `gone` from a thread of its own when stdin is closed. */
void WatchStdin(std::function<void()> gone);

/*! Calls `expired` from a thread of its own after `seconds`. */
void WatchClock(double seconds, std::function<void()> expired);

}  // namespace edge
