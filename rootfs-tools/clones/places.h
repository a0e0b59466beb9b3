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
///   parent-cgroup          beside a jail's root: what --parent-cgroup was
namespace mayfly::clones {

inline constexpr const char* kApiSocket = "api.sock";
inline constexpr const char* kConsole = "console";
inline constexpr const char* kLog = "log";
inline constexpr const char* kOverlay = "overlay";
inline constexpr const char* kParentCgroup = "parent-cgroup";
inline constexpr const char* kJailBase = "/srv/jailer";
/// The monitor's name in jails, and of `mayfly ps`.
inline constexpr const char* kMonitorName = "mayfly";

/// Below which directories clones are.
struct Bases {
  std::string jails = kJailBase;
  std::string run{};  ///< Of those without a jail; empty: /run/mayfly, or the user's own.
};

[[nodiscard]] std::filesystem::path run_directory(const Bases& bases);
/// Makes it. Error: as of check_run_directory().
[[nodiscard]] Status make_run_directory(const std::filesystem::path& directory);
/// Error: it is missing, no directory or another user's, or others may write to it. What is in it is believed: which processes
/// are killed, and which files are removed.
[[nodiscard]] Status check_run_directory(const std::filesystem::path& directory);
/// A jail's: BASE/mayfly/ID
[[nodiscard]] std::filesystem::path jail_directory(const std::filesystem::path& base, const std::string& id);

struct ClonePlace {
  std::filesystem::path directory;    ///< Of the clone's files.
  std::filesystem::path jail_base{};  ///< Empty: it has no jail.
  pid_t process = 0;                  ///< 0: it has ended.
  OwnedFd pidfd{};                    ///< The same.
  bool is_left = false;               ///< Nothing of a machine: what a removal has left that was killed.
};

/// By the machine's id alone: what a process says of itself, such as its id and where its socket is, may be a lie, and what is
/// here gets ended and removed. The process of a jail is the one that the jailer has written down; that of others is
/// this user's, and its API has the socket here. What a killed removal has left is a clone's, too. Error: there is none.
[[nodiscard]] Result<ClonePlace> find_clone(const std::string& id, const Bases& bases);
/// The same of a clone that is half made, or not at all.
[[nodiscard]] ClonePlace place_of(const std::string& id, const Bases& bases, bool jailed);

}  // namespace mayfly::clones
