#include "virtio/block/lock_holder.h"

#include <charconv>
#include <filesystem>
#include <fstream>

#include <fmt/format.h>

namespace mayfly {
namespace {

/// Processes that are looked through: an error's text is not worth more.
constexpr int kMaximumProcesses = 4096;

bool holds_lock(const std::filesystem::path& process, std::uint64_t inode) {
  std::error_code error;
  for (std::filesystem::directory_iterator at{process / "fdinfo", error}, end; !error && at != end;
       at.increment(error)) {
    std::ifstream file{at->path()};
    for (std::string line; std::getline(file, line);)
      if (is_lock_on(line, inode)) return true;
  }
  return false;
}

}  // namespace

bool is_lock_on(std::string_view line, std::uint64_t inode) {
  return line.starts_with("lock:") && line.find(fmt::format(":{} ", inode)) != std::string_view::npos;
}

bool we_hold_lock(std::uint64_t inode) { return holds_lock("/proc/self", inode); }

std::optional<int> find_lock_holder(std::uint64_t inode) {
  std::error_code error;
  int looked_at = 0;
  for (std::filesystem::directory_iterator at{"/proc", error}, end; !error && at != end; at.increment(error)) {
    const std::string name = at->path().filename();
    int pid = 0;
    const auto parsed = std::from_chars(name.data(), name.data() + name.size(), pid);
    if (parsed.ec != std::errc{} || parsed.ptr != name.data() + name.size()) continue;
    if (++looked_at > kMaximumProcesses) break;
    if (holds_lock(at->path(), inode)) return pid;
  }
  return std::nullopt;
}

std::string process_name(int pid) {
  std::ifstream file{fmt::format("/proc/{}/comm", pid)};
  std::string name;
  std::getline(file, name);
  return name;
}

}  // namespace mayfly
