// perf/run snapshot-ways: ways to save a guest's memory as of one moment while the guest goes on.
//
//   fork             a child of fork holds the moment by copy-on-write, writes it, and drops what it has written
//   user faults      the memory is write-protected (userfaultfd); a thread saves a page before its first write
//   pre-copy         pages are saved while the guest runs, and again as long as it writes; the rest in a pause
//
// The guest is a vCPU by bare KVM ioctls that adds 1 to a word of each page, round after round: it writes everything.
// For each way: how long it stands still, how much slower it writes meanwhile, what each page that it writes costs it
// then, how much more anonymous memory the host has at most (neighbours' as well), and how long the save takes. The image
// goes to a file in memory, so no disk is in any figure. Each image is checked to be of one moment.
//
//   snapshot_ways MIB...

#include "vmm/base/mapping.h"
#include "vmm/base/owned_fd.h"
#include "vmm/kvm/abi.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

namespace mayfly::perf {
namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr std::size_t kPage = 4096;
constexpr std::size_t kHuge = 2 * kMiB;
constexpr std::size_t kTables = 2 * kMiB;  // of the guest's code and page tables, before what it writes
constexpr std::size_t kReport = 2 * kMiB;  // the guest says so when it has written so much
constexpr int kRounds = 3;

double now_ms() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) * 1e3 + static_cast<double>(now.tv_nsec) / 1e6;
}

void must(bool good, const char* what) {
  if (good) return;
  std::perror(what);
  ::_exit(1);
}

enum class Kind { Small, Huge, File };

const char* name_of(Kind kind) {
  switch (kind) {
    case Kind::Small:
      return "4 KiB";
    case Kind::Huge:
      return "2 MiB";
    case Kind::File:
      return "a file's, private";
  }
  return "";
}

// --- The guest -------------------------------------------------------------------------------------------------------

/// Long mode, level 3, one to one.
class Guest {
 public:
  Guest(Kind kind, std::size_t size) : size_(size) {
    map(kind);
    kvm_ = OwnedFd{::open("/dev/kvm", O_RDWR | O_CLOEXEC)};
    must(static_cast<bool>(kvm_), "/dev/kvm");
    vm_ = OwnedFd{::ioctl(kvm_.get(), KVM_CREATE_VM, 0)};
    must(static_cast<bool>(vm_), "KVM_CREATE_VM");
    const kvm_userspace_memory_region slot{.slot = 0,
                                           .flags = 0,
                                           .guest_phys_addr = 0,
                                           .memory_size = kTables + size_,
                                           .userspace_addr = reinterpret_cast<std::uintptr_t>(memory_.data())};
    must(::ioctl(vm_.get(), KVM_SET_USER_MEMORY_REGION, &slot) == 0, "KVM_SET_USER_MEMORY_REGION");
    vcpu_ = OwnedFd{::ioctl(vm_.get(), KVM_CREATE_VCPU, 0)};
    must(static_cast<bool>(vcpu_), "KVM_CREATE_VCPU");
    const auto run_size = static_cast<std::size_t>(::ioctl(kvm_.get(), KVM_GET_VCPU_MMAP_SIZE, 0));
    run_ = Mapping{::mmap(nullptr, run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu_.get(), 0), run_size};
    must(static_cast<bool>(run_), "mmap of kvm_run");
    put_code();
    set_registers();
    struct sigaction action{};
    action.sa_handler = [](int) {};
    must(::sigaction(SIGUSR1, &action, nullptr) == 0, "sigaction");
    thread_ = std::thread{[this] { serve(); }};
    await_written(2 * size_);  // everything is touched, and in KVM's tables
  }
  Guest(const Guest&) = delete;
  Guest& operator=(const Guest&) = delete;
  ~Guest() {
    pause();
    stop_ = true;
    resume();
    thread_.join();
  }

  /// What it writes.
  [[nodiscard]] std::span<std::byte> memory() const noexcept { return memory_.subspan(kTables, size_); }
  [[nodiscard]] std::span<std::byte> all() const noexcept { return memory_; }
  [[nodiscard]] std::uint64_t written() const noexcept { return written_; }
  void await_written(std::uint64_t more) const {
    const std::uint64_t goal = written_ + more;
    while (written_ < goal) ::usleep(100);
  }
  /// MiB a second in undisturbed rounds.
  [[nodiscard]] double rate() const {
    const double begin = now_ms();
    const std::uint64_t before = written_;
    await_written(size_);
    return static_cast<double>(written_ - before) / kMiB / (now_ms() - begin) * 1e3;
  }
  void pause() {
    wanted_ = false;
    auto& run = *static_cast<kvm_run*>(run_.address());
    run.immediate_exit = 1;
    ::pthread_kill(thread_.native_handle(), SIGUSR1);
    parked_.wait(false);
  }
  void resume() {
    static_cast<kvm_run*>(run_.address())->immediate_exit = 0;
    parked_ = false;
    wanted_ = true;
    wanted_.notify_one();
  }

 private:
  void map(Kind kind) {
    const std::size_t length = kTables + size_;
    OwnedFd file;
    if (kind == Kind::File) {
      file = OwnedFd{::open(".", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600)};
      must(static_cast<bool>(file), "a file in the working directory");
      must(::ftruncate(file.get(), static_cast<off_t>(length)) == 0, "ftruncate");
    }
    const int flags = MAP_PRIVATE | MAP_NORESERVE | (file ? 0 : MAP_ANONYMOUS);
    room_ = Mapping{::mmap(nullptr, length + kHuge, PROT_READ | PROT_WRITE, flags, file.get(), 0), length + kHuge};
    must(static_cast<bool>(room_), "mmap of guest memory");
    void* start = room_.address();
    std::size_t space = room_.length();
    memory_ = {static_cast<std::byte*>(file ? start : std::align(kHuge, length, start, space)), length};
    must(::madvise(memory_.data(), length, kind == Kind::Huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE) == 0, "madvise");
    must(::madvise(memory_.data(), length, MADV_DONTFORK) == 0, "MADV_DONTFORK");
  }

  void put_code() {
    const auto put64 = [&](std::size_t at, std::uint64_t value) { std::memcpy(memory_.data() + at, &value, 8); };
    constexpr std::uint64_t kUser = 7;  // present, writable, level 3
    put64(0x2000, 0x3000 | kUser);
    for (std::uint64_t gib = 0; gib < 8; ++gib) {
      put64(0x3000 + gib * 8, (0x4000 + gib * 0x1000) | kUser);
      for (std::uint64_t i = 0; i < 512; ++i)
        put64(0x4000 + gib * 0x1000 + i * 8, (gib * 512 + i) * kHuge | kUser | 0x80);
    }
    constexpr unsigned char kCode[] = {0x48, 0xBB, 0,    0,    0x20, 0,    0, 0, 0, 0,  // again: mov $0x200000, %rbx
                                       0x48, 0xFF, 0x03,                                // next: incq (%rbx)
                                       0x48, 0x81, 0xC3, 0x00, 0x10, 0,    0,           // add $4096, %rbx
                                       0x48, 0xF7, 0xC3, 0xFF, 0xFF, 0x1F, 0,           // test $0x1fffff, %rbx
                                       0x75, 0xED,                                      // jnz next
                                       0xE6, 0x80,                                      // out %al, $0x80
                                       0x48, 0x39, 0xD3,                                // cmp %rdx, %rbx
                                       0x72, 0xE6,                                      // jb next
                                       0xEB, 0xDA};                                     // jmp again
    std::memcpy(memory_.data() + 0x1000, kCode, sizeof kCode);
  }

  void set_registers() const {
    static kvm_abi::CpuidTable cpuid;
    cpuid.count = static_cast<std::uint32_t>(cpuid.entries.size());
    must(::ioctl(kvm_.get(), kvm_abi::kGetSupportedCpuid, &cpuid) == 0, "KVM_GET_SUPPORTED_CPUID");
    must(::ioctl(vcpu_.get(), kvm_abi::kSetCpuid2, &cpuid) == 0, "KVM_SET_CPUID2");
    kvm_sregs special{};
    must(::ioctl(vcpu_.get(), KVM_GET_SREGS, &special) == 0, "KVM_GET_SREGS");
    const kvm_segment code{.base = 0,
                           .limit = 0xFFFFFFFF,
                           .selector = 0x33,
                           .type = 11,
                           .present = 1,
                           .dpl = 3,
                           .db = 0,
                           .s = 1,
                           .l = 1,
                           .g = 1,
                           .avl = 0,
                           .unusable = 0,
                           .padding = 0};
    kvm_segment data = code;
    data.selector = 0x2B;
    data.type = 3;
    data.db = 1;
    data.l = 0;
    special.cs = code;
    special.ds = special.es = special.fs = special.gs = special.ss = data;
    special.cr3 = 0x2000;
    special.cr4 = 0x20;        // PAE
    special.cr0 = 0x80000011;  // paging, protected mode
    special.efer = 0x500;      // long mode
    must(::ioctl(vcpu_.get(), KVM_SET_SREGS, &special) == 0, "KVM_SET_SREGS");
    kvm_regs general{};
    general.rip = 0x1000;
    general.rdx = kTables + size_;
    general.rflags = 0x3002;  // ports are level 3's as well
    must(::ioctl(vcpu_.get(), KVM_SET_REGS, &general) == 0, "KVM_SET_REGS");
  }

  void serve() {
    while (!stop_) {
      const int result = ::ioctl(vcpu_.get(), KVM_RUN, 0);
      if (result < 0 && errno == EINTR) {
        if (wanted_) continue;
        parked_ = true;
        parked_.notify_one();
        wanted_.wait(false);
        continue;
      }
      const auto& run = *static_cast<const kvm_run*>(run_.address());
      if (result != 0 || run.exit_reason != KVM_EXIT_IO) {
        std::fprintf(stderr, "the guest ended: %s, exit %u\n", result < 0 ? std::strerror(errno) : "", run.exit_reason);
        ::_exit(1);
      }
      written_ += kReport;
    }
  }

  std::size_t size_;
  Mapping room_, run_;
  std::span<std::byte> memory_;
  OwnedFd kvm_, vm_, vcpu_;
  std::thread thread_;
  std::atomic<bool> wanted_{true}, parked_{false}, stop_{false};
  std::atomic<std::uint64_t> written_{0};
};

// --- What is measured ------------------------------------------------------------------------------------------------

/// Anonymous memory of the host, in MiB, at most since begin().
class MostMemory {
 public:
  MostMemory()
      : before_(now()), most_(before_), thread_([this](const std::stop_token& stop) {
          while (!stop.stop_requested()) {
            most_ = std::max(most_.load(), now());
            ::usleep(2000);
          }
        }) {}
  double more() {
    thread_.request_stop();
    thread_.join();
    return std::max(most_.load(), now()) - before_;
  }

 private:
  static double now() {
    char text[4096];
    const OwnedFd file{::open("/proc/meminfo", O_RDONLY | O_CLOEXEC)};
    const ssize_t count = ::read(file.get(), text, sizeof text - 1);
    text[std::max<ssize_t>(count, 0)] = 0;
    const char* found = std::strstr(text, "AnonPages:");
    return found == nullptr ? 0 : std::strtod(found + 10, nullptr) / 1024;
  }
  double before_;
  std::atomic<double> most_;
  std::jthread thread_;
};

struct Figures {
  double pause_ms = 0;
  double save_ms = 0;
  double slowdown = 0;
  double page_us = 0;  ///< That the guest took for each page that it wrote.
  double extra_mib = 0;
};

/// Checks that an image is of one moment: the guest counts its pages up in order, so the first ones may be 1 ahead.
bool is_of_one_moment(int file, std::size_t size) {
  std::uint64_t first = 0;
  bool behind = false;
  for (std::size_t at = 0; at < size; at += kPage) {
    std::uint64_t count = 0;
    if (::pread(file, &count, sizeof count, static_cast<off_t>(at)) != sizeof count) return false;
    if (at == 0) first = count;
    if (!behind && count + 1 == first) behind = true;
    if (count != first - (behind ? 1 : 0)) return false;
  }
  return true;
}

void write_out(int file, std::span<const std::byte> bytes, std::size_t at) {
  while (!bytes.empty()) {
    const ssize_t count = ::pwrite(file, bytes.data(), bytes.size(), static_cast<off_t>(at));
    must(count > 0, "pwrite");
    bytes = bytes.subspan(static_cast<std::size_t>(count));
    at += static_cast<std::size_t>(count);
  }
}

/// A save in the making.
class Save {
 public:
  explicit Save(Guest& guest) : guest_(guest), file_(::memfd_create("image", MFD_CLOEXEC)) {
    must(::ftruncate(file_.get(), static_cast<off_t>(guest.memory().size())) == 0, "ftruncate");
    usual_rate_ = guest.rate();
  }
  /// nullopt where the kernel cannot.
  template <typename Way>
  std::optional<Figures> run(Way way) {
    MostMemory memory;
    const double begin = now_ms();
    const std::uint64_t before = guest_.written();
    if (!way(*this)) return std::nullopt;
    const double took = now_ms() - begin;
    const auto written = static_cast<double>(guest_.written() - before);
    must(is_of_one_moment(file_.get(), guest_.memory().size()), "the image is not of one moment");
    const double usual = usual_rate_ * took / 1e3 * kMiB;
    return Figures{pause_ms_, took, usual / std::max<double>(written, kReport),
                   took * 1e3 / std::max<double>(written / kPage, 1), memory.more()};
  }
  [[nodiscard]] Guest& guest() const noexcept { return guest_; }
  [[nodiscard]] int file() const noexcept { return file_.get(); }
  void begin_pause() {
    paused_ms_ = now_ms();
    guest_.pause();
  }
  void end_pause() {
    guest_.resume();
    pause_ms_ = now_ms() - paused_ms_;
  }

 private:
  Guest& guest_;
  OwnedFd file_;
  double usual_rate_ = 0;
  double paused_ms_ = 0;
  double pause_ms_ = 0;
};

// --- The ways --------------------------------------------------------------------------------------------------------

bool by_fork(Save& save) {
  const auto memory = save.guest().memory();
  const auto all = save.guest().all();
  save.begin_pause();
  must(::madvise(all.data(), all.size(), MADV_DOFORK) == 0, "MADV_DOFORK");
  const auto child = static_cast<pid_t>(::syscall(SYS_clone, 0, nullptr, nullptr, nullptr, nullptr));
  if (child == 0) {
    for (std::size_t at = 0; at < memory.size(); at += kHuge) {
      write_out(save.file(), memory.subspan(at, kHuge), at);
      ::madvise(memory.data() + at, kHuge, MADV_DONTNEED);
    }
    ::_exit(0);
  }
  must(child > 0, "clone");
  must(::madvise(all.data(), all.size(), MADV_DONTFORK) == 0, "MADV_DONTFORK");
  save.end_pause();
  int status = 0;
  must(::waitpid(child, &status, __WALL) == child && status == 0, "the child");
  return true;
}

OwnedFd open_userfaultfd(std::uint64_t features) {
  OwnedFd device{::open("/dev/userfaultfd", O_RDWR | O_CLOEXEC)};
  OwnedFd faults{device ? ::ioctl(device.get(), USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK)
                        : static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK))};
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = features;
  if (!faults || ::ioctl(faults.get(), UFFDIO_API, &api) != 0) return {};
  return faults;
}

bool register_writes(const OwnedFd& faults, std::span<std::byte> memory) {
  uffdio_register range{};
  range.range = {reinterpret_cast<std::uintptr_t>(memory.data()), memory.size()};
  range.mode = UFFDIO_REGISTER_MODE_WP;
  return ::ioctl(faults.get(), UFFDIO_REGISTER, &range) == 0;
}

bool protect(const OwnedFd& faults, std::span<std::byte> memory, bool on) {
  uffdio_writeprotect range{};
  range.range = {reinterpret_cast<std::uintptr_t>(memory.data()), memory.size()};
  range.mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0;
  return ::ioctl(faults.get(), UFFDIO_WRITEPROTECT, &range) == 0;
}

/// Which pages are saved, by two threads: in order, and on demand.
class OnDemand {
 public:
  explicit OnDemand(Save& save, const OwnedFd& faults)
      : save_(save), faults_(faults), memory_(save.guest().memory()), saved_(memory_.size() / kPage) {}
  void save_all() {
    constexpr std::size_t kPiece = 16 * kPage;
    for (std::size_t at = 0; at < memory_.size(); at += kPiece) save_piece(at, kPiece);
  }
  void serve(const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      pollfd one{.fd = faults_.get(), .events = POLLIN, .revents = 0};
      if (::poll(&one, 1, 20) <= 0) continue;
      uffd_msg message{};
      if (::read(faults_.get(), &message, sizeof message) != sizeof message) continue;
      const auto at = message.arg.pagefault.address - reinterpret_cast<std::uintptr_t>(memory_.data());
      save_piece(at / kPage * kPage, kPage);
    }
  }

 private:
  void save_piece(std::size_t at, std::size_t length) {
    const std::lock_guard lock{mutex_};
    for (std::size_t page = at / kPage; page < (at + length) / kPage;) {
      std::size_t end = page;
      while (end < (at + length) / kPage && !saved_[end]) saved_[end++] = true;
      if (end > page) write_out(save_.file(), memory_.subspan(page * kPage, (end - page) * kPage), page * kPage);
      page = end + (end == page ? 1 : 0);
    }
    must(protect(faults_, memory_.subspan(at, length), false), "UFFDIO_WRITEPROTECT");
  }

  Save& save_;
  const OwnedFd& faults_;
  std::span<std::byte> memory_;
  std::mutex mutex_;
  std::vector<bool> saved_;
};

bool by_user_faults(Save& save) {
  const auto memory = save.guest().memory();
  const OwnedFd faults = open_userfaultfd(UFFD_FEATURE_PAGEFAULT_FLAG_WP);
  if (!faults || !register_writes(faults, memory)) return false;
  OnDemand pages{save, faults};
  std::jthread server{[&](const std::stop_token& stop) { pages.serve(stop); }};
  save.begin_pause();
  must(protect(faults, memory, true), "UFFDIO_WRITEPROTECT");
  save.end_pause();
  pages.save_all();
  return true;
}

// PAGEMAP_SCAN (linux/fs.h of 6.7; Debian 12's headers are older).
struct ScanRegion {
  std::uint64_t start = 0;
  std::uint64_t end = 0;
  std::uint64_t categories = 0;
};
struct ScanArguments {
  std::uint64_t size = sizeof(ScanArguments);
  std::uint64_t flags = 0;
  std::uint64_t start = 0;
  std::uint64_t end = 0;
  std::uint64_t walk_end = 0;
  std::uint64_t regions = 0;
  std::uint64_t region_count = 0;
  std::uint64_t max_pages = 0;
  std::uint64_t category_inverted = 0;
  std::uint64_t category_mask = 0;
  std::uint64_t category_anyof_mask = 0;
  std::uint64_t return_mask = 0;
};
constexpr unsigned long kPagemapScan = _IOWR('f', 16, ScanArguments);
constexpr std::uint64_t kIsWritten = 1 << 1;
constexpr std::uint64_t kProtectMatches = 1;
constexpr std::uint64_t kCheckProtected = 2;
constexpr std::uint64_t kFeatureUnpopulated = 1 << 13;
constexpr std::uint64_t kFeatureAsynchronous = 1 << 15;

/// Writes what was written since the last call; bytes, or nullopt where the kernel does not know.
std::optional<std::size_t> save_written(const Save& save, int pagemap) {
  const auto memory = save.guest().memory();
  const auto begin = reinterpret_cast<std::uintptr_t>(memory.data());
  std::array<ScanRegion, 512> regions;
  ScanArguments arguments{.flags = kProtectMatches | kCheckProtected,
                          .start = begin,
                          .end = begin + memory.size(),
                          .regions = reinterpret_cast<std::uintptr_t>(regions.data()),
                          .region_count = regions.size(),
                          .category_mask = kIsWritten,
                          .return_mask = kIsWritten};
  std::size_t sum = 0;
  while (arguments.start < arguments.end) {
    const int count = ::ioctl(pagemap, kPagemapScan, &arguments);
    if (count < 0) return std::nullopt;
    for (const ScanRegion& region : std::span{regions}.first(static_cast<std::size_t>(count))) {
      write_out(save.file(), memory.subspan(region.start - begin, region.end - region.start), region.start - begin);
      sum += region.end - region.start;
    }
    arguments.start = arguments.walk_end;
  }
  return sum;
}

bool by_pre_copy(Save& save) {
  const auto memory = save.guest().memory();
  const OwnedFd faults = open_userfaultfd(kFeatureAsynchronous | kFeatureUnpopulated);
  const OwnedFd pagemap{::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC)};
  if (!faults || !register_writes(faults, memory)) return false;
  constexpr int kMostRounds = 4;
  for (int round = 0; round < kMostRounds; ++round) {
    const auto written = save_written(save, pagemap.get());
    if (!written) return false;
    if (*written < kMiB) break;
  }
  save.begin_pause();
  must(save_written(save, pagemap.get()).has_value(), "PAGEMAP_SCAN");
  save.end_pause();
  return true;
}

// --- The table -------------------------------------------------------------------------------------------------------

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

template <typename Way>
std::optional<Figures> measure(const char* name, Way way, Kind kind, std::size_t mib) {
  std::vector<double> pause, save, slowdown, page, extra;
  for (int round = 0; round < kRounds; ++round) {
    Guest guest{kind, mib * kMiB};  // anew: a way leaves pages in pieces
    const auto figures = Save{guest}.run(way);
    if (!figures) {
      std::printf("%-12s %-18s %8zu   the kernel does not do it\n", name, name_of(kind), mib);
      return std::nullopt;
    }
    pause.push_back(figures->pause_ms);
    save.push_back(figures->save_ms);
    slowdown.push_back(figures->slowdown);
    page.push_back(figures->page_us);
    extra.push_back(figures->extra_mib);
  }
  const Figures all{median(pause), median(save), median(slowdown), median(page), *std::ranges::min_element(extra)};
  std::printf("%-12s %-18s %8zu %10.2f %10.2f %10.0f %10.1f %10.1f %10.0f\n", name, name_of(kind), mib, all.pause_ms,
              *std::ranges::min_element(pause), all.save_ms, all.slowdown, all.page_us, all.extra_mib);
  std::fflush(stdout);
  return all;
}

int run(std::span<const std::size_t> sizes) {
  std::printf("%-12s %-18s %8s %10s %10s %10s %10s %10s %10s\n", "way", "pages", "MiB", "pause ms", "least", "save ms",
              "slow-down", "us a page", "extra MiB");
  std::string last;
  for (const Kind kind : {Kind::Small, Kind::Huge, Kind::File}) {
    for (const std::size_t mib : sizes) {
      const auto fork = measure("fork", by_fork, kind, mib);
      const auto faults = measure("user faults", by_user_faults, kind, mib);
      (void)measure("pre-copy", by_pre_copy, kind, mib);
      if (kind != Kind::Huge || !fork || !faults) continue;
      char text[128];
      std::snprintf(text, sizeof text, " fork_%zu_ms=%.2f faults_%zu_ms=%.2f", mib, fork->pause_ms, mib,
                    faults->pause_ms);
      last += text;
    }
  }
  std::printf("\nsnapshot-ways:%s\n", last.c_str());
  return 0;
}

}  // namespace
}  // namespace mayfly::perf

int main(int argc, char** argv) {
  std::vector<std::size_t> sizes;
  for (int i = 1; i < argc; ++i) sizes.push_back(std::strtoull(argv[i], nullptr, 10));  // NOLINT
  if (sizes.empty() ||
      std::ranges::any_of(sizes, [](std::size_t mib) { return mib < 2 || mib > 6144 || mib % 2 != 0; }))
    return std::fprintf(stderr, "usage: snapshot_ways MIB...: even, at most 6144\n"), 2;
  return mayfly::perf::run(sizes);
}
