#include "programs.h"

#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <stdexcept>

namespace edge {
namespace {

// FNV-1a: it detects damage, not malice.
std::string Checksum(const std::string& bytes) {
  uint64_t sum = 0xcbf29ce484222325;
  for (unsigned char byte : bytes) sum = (sum ^ byte) * 0x100000001b3;
  char text[17];
  std::snprintf(text, sizeof(text), "%016llx", static_cast<unsigned long long>(sum));
  return text;
}

std::string Read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string content{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (content.size() <= 16) return "";
  std::string programs = content.substr(16);
  return content.compare(0, 16, Checksum(programs)) == 0 ? programs : "";
}

// Writes a temporary file and renames it, so that an interrupted run leaves no partial file.
void Write(const std::string& path, const std::string& programs) {
  std::string temporary = path + ".new";
  bool written = static_cast<bool>(std::ofstream(temporary, std::ios::binary) << Checksum(programs) << programs << std::flush);
  if (!written || std::rename(temporary.c_str(), path.c_str()) != 0) std::remove(temporary.c_str());
}

}  // namespace

bool RestoreOrBuild(const std::string& path, const std::function<std::string()>& build,
                    const std::function<void(const std::string&)>& restore) {
  std::string trying = path + ".trying";
  // An earlier run ended while it restored: there are drivers that crash where others refuse.
  if (!path.empty() && std::remove(trying.c_str()) == 0) std::remove(path.c_str());
  std::string kept = path.empty() ? "" : Read(path);
  if (kept.empty()) {
    std::string programs = build();
    if (!path.empty()) Write(path, programs);
    return false;
  }
  std::rename(path.c_str(), trying.c_str());
  try {
    restore(kept);
  } catch (const std::exception& error) {
    // The module may now hold a program that cannot run, so this process cannot go on.
    std::remove(trying.c_str());
    std::remove(path.c_str());
    throw std::runtime_error("the driver refuses the OpenCL programs that were kept, and they have been removed: " +
                             std::string(error.what()));
  }
  std::rename(trying.c_str(), path.c_str());
  return true;
}

}  // namespace edge
