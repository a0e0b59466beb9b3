#pragma once

#include "rootfs-tools/image/image_names.h"
#include "rootfs-tools/image/limits.h"
#include "rootfs-tools/image/run_config.h"
#include "rootfs-tools/image/squashfs.h"
#include "vmm/base/error.h"

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

/// From an image to a read-only base: the whole way.
///
///   auto facts = make_base({.image = "app.tar", .platform = {"linux", "amd64"}, .output = "app.squashfs"});
///
/// Needs no rights and mounts nothing. Temporary files are in the output's directory. What is there when it ends is whole: the
/// base gets its name when all is written, and then the configuration and the run file.
namespace mayfly::image {

struct BaseOrder {
  std::string image;
  std::optional<std::string> name{};
  Platform platform;
  std::string output;
  std::optional<std::string> config{};
  std::optional<std::string> run_file{};
  ImageLimits limits{};
  SquashfsOptions squashfs{};
  /// What is being done, and how many bytes of how many. Called often.
  std::function<void(std::string_view step, std::uint64_t done, std::uint64_t total)> on_progress{};
  /// Ends the wait for an image that comes by a pipe, with an error, once it can be read; -1: nothing does.
  int cancel = -1;
};

struct BaseFacts {
  std::vector<std::string> names;
  std::string image_digest;
  std::string base_digest;
  std::uint64_t base_bytes = 0;
  std::uint64_t inodes = 0;
  std::uint64_t data_bytes = 0;
  RunConfig run;
  std::vector<std::string> left_out_attributes;  ///< Of extended attributes that a squashfs cannot have: the first 100.
};

[[nodiscard]] Result<BaseFacts> make_base(const BaseOrder& order);

}  // namespace mayfly::image
