// Compiled OpenCL programs, kept on the device between runs.
#pragma once

#include <functional>
#include <string>

namespace edge {

/*!
 * Restore the programs that `path` keeps, or build them and keep them there.
 *
 * A file that is not whole, as a phone that died while writing leaves it, counts as none. `path` may be empty: nothing is
 * kept. Where nothing can be written, nothing is kept either.
 * \param build Compiles all programs and returns them.
 * \param restore Takes them back; throws where the driver refuses them.
 * \return Whether kept ones were restored.
 * \throw std::runtime_error Programs that were whole were refused. They are removed: the next run builds.
 */
bool RestoreOrBuild(const std::string& path, const std::function<std::string()>& build,
                    const std::function<void(const std::string&)>& restore);

}  // namespace edge
