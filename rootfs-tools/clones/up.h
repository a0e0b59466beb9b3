#pragma once

#include "rootfs-tools/clones/places.h"
#include "vmm/base/error.h"

#include <sys/types.h>

#include <optional>
#include <string>

/// `mayfly up`, `mayfly down` and `mayfly logs`: clones of a template.
///
///   const auto id = TRY(bring_up({.directory = "app.template"}));    // it answers
///   TRY(take_down({.id = id}));                                      // nothing of it is left
namespace mayfly::clones {

struct UpOptions {
  std::string directory;       ///< The template.
  std::string id{};            ///< Empty: the template's name and a number.
  std::optional<bool> jail{};  ///< None: where we are root, which it takes.
  std::string jail_base = kJailBase;
  std::optional<uid_t> user{};  ///< Of a jail; none: one that no other clone has.
  std::string monitor{};        ///< Empty: the program that runs. The jailer is beside it.
  std::string metadata{};       ///< A JSON file for the guest; empty: none.
  unsigned patience_s = 30;     ///< Until it answers.
};

/// Starts a clone, and waits until its agent answers, and somebody at the template's port. Returns its id. Errors leave nothing.
[[nodiscard]] Result<std::string> bring_up(const UpOptions& options);

struct DownOptions {
  std::string id;
  bool now = false;         ///< The guest is not asked.
  unsigned timeout_s = 10;  ///< For the guest; then its monitor is ended.
  std::string jail_base = kJailBase;
};
/// Ends it and removes its files. One that has ended already is cleaned up.
[[nodiscard]] Status take_down(const DownOptions& options);

struct LogsOptions {
  std::string id;
  bool follow = false;  ///< Until the machine ends.
  std::string jail_base = kJailBase;
};
/// Copies what the guest has printed to standard output; to a terminal, without control characters.
[[nodiscard]] Status print_logs(const LogsOptions& options);

}  // namespace mayfly::clones
