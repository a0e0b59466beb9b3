#pragma once

#include "rootfs-tools/clones/template_file.h"
#include "rootfs-tools/image/base.h"
#include "vmm/base/error.h"

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

/// From an image to a template (rootfs-tools/clones/template_file.h): base, boot, ready, snapshot, working set.
///
///   auto made = build_template({.base = {.image = "app.tar"}, .output = "app.template", .kernel = "vmlinux", ...});
///
/// Takes /dev/kvm and no other right. What is made has another name until it is whole; a failure or an
/// interrupt removes it, and so does the next build where this one was killed.
namespace mayfly::image {

struct BuildOrder {
  BaseOrder base;      ///< Without output and config, which are the template's.
  std::string output;  ///< The directory to make.
  std::string kernel;  ///< With squashfs, overlayfs, ext4 and virtio built in (rootfs-tools/build-kernel).
  std::string init;    ///< mayfly-guest-init
  std::string agent;   ///< mayfly-guest-agent
  std::string monitor;
  std::string more_arguments{};  ///< Of the kernel.
  unsigned vcpus = 1;
  std::uint64_t memory_mib = 256;
  std::uint64_t layer_bytes = std::uint64_t{1} << 30;  ///< What a clone may write.
  /// A TCP port of the guest at which the function listens once it is ready; 0: none is waited for; none: the first that the
  /// image exposes.
  std::optional<std::uint16_t> ready_port{};
  /// Of an HTTP request that is made before the snapshot, and after it to learn its working set; empty: none.
  std::string warm_up{};
  std::chrono::seconds patience{60};  ///< From the start to the answer of the warm-up.
  /// From then to the snapshot. A kernel puts work off, and every clone does it that is saved before.
  std::chrono::seconds rest{5};
  std::function<void(std::string_view step)> on_step{};
};

/// Errors: the image's; the output is there already; the kernel's last words where it does not come up.
[[nodiscard]] Result<clones::Template> build_template(const BuildOrder& order);

}  // namespace mayfly::image
