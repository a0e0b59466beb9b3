#pragma once

#include <optional>
#include <string>
#include <string_view>

/// How a child that was branched off a machine (vmm/machine/brancher.h) is found by its process. Its executable and command
/// line are those of its first ancestor; so it holds an anonymous file whose name, which is in /proc/PID/fd, says who it is:
///
///   ::memfd_create(branch_mark("clone-7", "/run/clone-7.sock").c_str(), MFD_CLOEXEC);
namespace mayfly {

/// What a child's process is called until it has its mark, and a thread of its parent's always.
inline constexpr const char* kBrancherName = "brancher";

struct BranchMark {
  std::string id;
  std::string socket;  ///< As its parent was told it; never empty.
};

inline constexpr std::string_view kBranchMark = "mayfly-branch:";

[[nodiscard]] inline std::string branch_mark(std::string_view id, std::string_view socket) {
  return std::string{kBranchMark}.append(id).append(":").append(socket);
}

/// Of a link in /proc/PID/fd; none where it is no mark. Any process can have one: nothing of it is trusted.
[[nodiscard]] inline std::optional<BranchMark> parse_branch_mark(std::string_view link) {
  constexpr std::string_view kFile = "/memfd:";
  constexpr std::string_view kEnd = " (deleted)";
  if (!link.starts_with(kFile) || !link.ends_with(kEnd)) return std::nullopt;
  link = link.substr(kFile.size(), link.size() - kFile.size() - kEnd.size());
  if (!link.starts_with(kBranchMark)) return std::nullopt;
  link.remove_prefix(kBranchMark.size());
  const std::size_t colon = link.find(':');
  if (colon == std::string_view::npos || colon + 1 == link.size()) return std::nullopt;
  return BranchMark{std::string{link.substr(0, colon)}, std::string{link.substr(colon + 1)}};
}

}  // namespace mayfly
