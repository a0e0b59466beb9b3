#pragma once

#include "rootfs-tools/init/orders.h"
#include "rootfs-tools/init/run_file.h"

/// A guest whose root is a container image: its base, which is only read, below a layer of its own.
namespace mayfly::guest_init {

/// What the initramfs gave, and what of it the image's root cannot hide.
struct Image {
  RunFile run{};
  int agent = -1;     ///< The agent's program; -1: there is none.
  int run_file = -1;  ///< The same file that `run` is from, for the agent; -1: there is none.
};

/// Mounts the base and the layer, and makes them the root, with the kernel's file systems in it. False: that failed, and
/// was printed; nothing of the image can be run.
bool enter_image(const Orders& orders, Image& image);

}  // namespace mayfly::guest_init
