// Keeps compiled OpenCL programs on the device between runs.
#pragma once

#include <functional>
#include <string>

namespace edge {

/*!
 * Restores the programs in the file `path`, or builds them and writes them there.
 *
 * A damaged file, such as a phone that died while writing leaves, is ignored. If `path` is empty or cannot be written,
 * the programs are not kept. While they are restored, the file is called `path`.trying: where a run finds one, the
 * driver crashed, and it builds instead.
 * \param build Compiles all programs and returns them.
 * \param restore Loads compiled programs; throws if the driver refuses them.
 * \return Whether programs were restored.
 * \throw std::runtime_error The driver refused undamaged programs. They are removed, so that the next run builds.
 */
bool RestoreOrBuild(const std::string& path, const std::function<std::string()>& build,
                    const std::function<void(const std::string&)>& restore);

}  // namespace edge
