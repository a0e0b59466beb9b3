#pragma once

#include "rootfs-tools/clones/places.h"
#include "vmm/base/error.h"

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

/// `mayfly up`, `mayfly down` and `mayfly logs`: clones of a template.
///
///   const auto id = TRY(bring_up({.directory = "app.template"}));    // it answers
///   TRY(take_down({.id = id}));                                      // nothing of it is left
///
/// Both first remove what a killed one has left (starting_mark.h).
namespace mayfly::clones {

struct UpOptions {
  std::string directory;       ///< The template.
  std::string id{};            ///< Empty: the template's name and a number.
  std::optional<bool> jail{};  ///< None: where we are root, which it takes.
  Bases bases{};
  std::optional<uid_t> user{};  ///< Of a jail; none: one that no other clone has.
  std::string monitor{};        ///< Empty: the program that runs. The jailer is beside it.
  std::string metadata{};       ///< A JSON file for the guest; empty: none.
  /// Of the jailer, by its own names, such as {"--cgroup", "cpu.max=50000 100000"}.
  std::vector<std::string> jailer_words{};
  std::string parent_cgroup{};  ///< The jailer's as well; empty: its own default.
  /// That its console, and its log, take: the newest stay.
  std::uint64_t max_output_bytes = std::uint64_t{1} << 20;
  unsigned patience_s = 30;  ///< From the call to its answer.
  /// Told the id of a clone that answers, while it can still be taken back: an error does. Nobody would know of it.
  std::function<Status(const std::string& id)> announce{};
};

/// Starts a clone, and waits until its agent answers, and somebody at the template's port. Returns its id. Errors leave nothing.
[[nodiscard]] Result<std::string> bring_up(const UpOptions& options);

struct DownOptions {
  std::string id;
  bool now = false;         ///< The guest is not asked.
  unsigned timeout_s = 10;  ///< Until it is killed: for the guest, and the last 2 s for its monitor.
  Bases bases{};
};
/// Ends it and removes its files. One that has ended already is cleaned up.
[[nodiscard]] Status take_down(const DownOptions& options);

struct LogsOptions {
  std::string id;
  bool follow = false;  ///< Until the machine ends.
  Bases bases{};
};
/// Copies what the guest has printed to standard output; to a terminal, without control characters. Standard error says how much
/// of it is gone.
[[nodiscard]] Status print_logs(const LogsOptions& options);

}  // namespace mayfly::clones
