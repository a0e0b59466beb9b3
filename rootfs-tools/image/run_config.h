#pragma once

#include "rootfs-tools/image/accounts.h"
#include "rootfs-tools/image/file_tree.h"
#include "rootfs-tools/image/spool.h"
#include "vmm/base/error.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

/// How an image wants to be run: what a guest's init needs to know.
namespace mayfly::image {

struct ExposedPort {
  std::uint16_t port = 0;
  std::string protocol;  ///< "tcp", "udp" or "sctp".
};

struct RunConfig {
  std::vector<std::string> entrypoint{};
  std::vector<std::string> command{};
  std::vector<std::string> environment{};  ///< NAME=VALUE.
  std::string user_text{};                 ///< As the image says it.
  RunUser user{};
  std::string working_directory = "/";
  int stop_signal = 15;  ///< Its number on Linux, x86-64.
  std::vector<ExposedPort> ports{};
  std::vector<std::string> volumes{};  ///< Directories that engines make where no layer has them.
  std::string_view init{};             ///< "s6-overlay", "systemd": its program, which must be process 1.
};

/// `config`: the image's configuration (JSON, image-spec 1.0 config.md). The user is looked up in the image's own
/// /etc/passwd and /etc/group, by the rules of runc. `what` names the configuration in errors.
[[nodiscard]] Result<RunConfig> read_run_config(std::string_view config, FileTree& tree, const Spool& spool,
                                                std::string_view what);

/// "SIGTERM", "TERM", "15", "SIGRTMIN+3"; in small letters, too.
[[nodiscard]] Result<int> signal_number(std::string_view text);

struct BaseIdentity {
  std::string image_digest;  ///< Of the manifest; of the configuration where there is none.
  std::string config_digest;
  std::vector<std::string> names;
  std::string platform;
  std::string base_digest;  ///< Of the file.
  std::uint64_t base_bytes = 0;
};

/// The JSON of --config; rootfs-tools/README.md describes it.
[[nodiscard]] std::string to_json(const RunConfig& config, const BaseIdentity& identity);

}  // namespace mayfly::image
