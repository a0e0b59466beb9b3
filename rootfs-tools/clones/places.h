#pragma once

#include "vmm/base/error.h"
#include "vmm/base/owned_fd.h"

#include <sys/types.h>

#include <filesystem>
#include <string>

/// Where the files of a clone are that mayfly up has started: beside the socket of its API.
///
///   api.sock, agent.sock   its sockets
///   console                what the guest prints
///   log                    what its monitor has to say; in a jail's case beside its root, where the monitor cannot remove it
///   overlay                what it has written to its file system
namespace mayfly::clones {

inline constexpr const char* kApiSocket = "api.sock";
inline constexpr const char* kConsole = "console";
inline constexpr const char* kLog = "log";
inline constexpr const char* kOverlay = "overlay";
inline constexpr const char* kJailBase = "/srv/jailer";
/// The monitor's name in jails, and of `mayfly ps`.
inline constexpr const char* kMonitorName = "mayfly";

/// Of clones without a jail: /run/mayfly, or the user's own.
[[nodiscard]] std::filesystem::path run_directory();
/// Makes it. Error: it is another user's, or others may write to it.
[[nodiscard]] Status make_run_directory();
/// A jail's: BASE/mayfly/ID
[[nodiscard]] std::filesystem::path jail_directory(const std::filesystem::path& base, const std::string& id);

struct ClonePlace {
  std::filesystem::path directory;    ///< Of the clone's files.
  std::filesystem::path jail_base{};  ///< Empty: it has no jail.
  pid_t process = 0;                  ///< 0: it has ended.
  OwnedFd pidfd{};                    ///< The same.
};

/// By the machine's id alone: what a process says of itself, such as its id and where its socket is, may be a lie, and what is
/// here gets ended and removed. The process of a jail is the one that the jailer has written down; that of others is
/// this user's, and its API has the socket here. `jail_base`: where jails are looked for. Error: there is none.
[[nodiscard]] Result<ClonePlace> find_clone(const std::string& id, const std::filesystem::path& jail_base);

}  // namespace mayfly::clones
