#include "perf/frozen_guest.h"

#include <fcntl.h>
#include <unistd.h>

namespace mayfly::perf {

using namespace mayfly::testing;

/// Where the guest looks for leave to go on.
constexpr off_t kGoOn = 0x800000;

FrozenGuest::FrozenGuest(const ScratchDirectory& scratch, const Options& options)
    : size_mib_(options.size_mib),
      state_(scratch.file(std::to_string(size_mib_) + ".state")),
      memory_(scratch.file(std::to_string(size_mib_) + ".mem")) {
  const std::string socket = scratch.file("freeze" + std::to_string(size_mib_));
  const SocketWaiter waiter{socket};
  Pipe console;
  ChildProcess process{{options.monitor, "--api-sock", socket, "--boot-timer", "--level", "Error"},
                       {.out = console.write.get()}};
  const OwnedFd connection = waiter.connect();
  const int fd = connection.get();
  must_exchange(fd, "PUT", "/machine-config",
                R"({"vcpu_count": 1, "mem_size_mib": )" + std::to_string(size_mib_) + "}");
  must_exchange(fd, "PUT", "/boot-source",
                R"({"kernel_image_path": ")" + options.guest + R"(", "boot_args": "console=ttyS0"})");
  must_exchange(fd, "PUT", "/actions", R"({"action_type": "InstanceStart"})");
  std::string text;
  read_until(console.read.get(), text, "W");
  must_exchange(fd, "PATCH", "/vm", R"({"state": "Paused"})");
  must_exchange(fd, "PUT", "/snapshot/create",
                R"({"snapshot_path": ")" + state_ + R"(", "mem_file_path": ")" + memory_ + "\"}");
  const OwnedFd file{::open(memory_.c_str(), O_WRONLY | O_CLOEXEC)};
  const auto leave = static_cast<char>(options.then);
  if (::pwrite(file.get(), &leave, 1, kGoOn) != 1 || ::fsync(file.get()) != 0) give_up("cannot write to " + memory_);
}

void drop_from_page_cache(const std::vector<std::string>& paths) {
  for (const std::string& path : paths) {
    const OwnedFd file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
    if (::posix_fadvise(file.get(), 0, 0, POSIX_FADV_DONTNEED) != 0) give_up("cannot drop " + path + " from the cache");
  }
}

void FrozenGuest::cool() const { drop_from_page_cache({state_, memory_}); }

}  // namespace mayfly::perf
