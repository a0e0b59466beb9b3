#include "vmm/doctor/host.h"

#include "vmm/base/owned_fd.h"

#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/kvm.h>
#include <linux/landlock.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>

namespace mayfly {
namespace {

constexpr std::string_view kWhiteSpace = " \t\n";

OwnedFd open_device(const std::string& path) { return OwnedFd{::open(path.c_str(), O_RDWR | O_CLOEXEC)}; }

class RealHostCalls : public HostCalls {
 public:
  [[nodiscard]] int try_open(const std::string& path) const override { return open_device(path) ? 0 : errno; }

  [[nodiscard]] std::optional<KvmAnswers> ask_kvm(const std::string& path,
                                                  std::span<const int> capabilities) const override {
    const OwnedFd device = open_device(path);
    if (!device) return std::nullopt;
    KvmAnswers answers;
    answers.api_version = ::ioctl(device.get(), KVM_GET_API_VERSION, 0);
    for (const int capability : capabilities)
      answers.capabilities.push_back(std::max(0, ::ioctl(device.get(), KVM_CHECK_EXTENSION, capability)));
    return answers;
  }

  [[nodiscard]] int try_user_faults(const std::string& path) const override {
    if (open_device(path)) return 0;
    const OwnedFd faults{static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC))};
    return faults ? 0 : errno;
  }

  [[nodiscard]] int try_io_uring() const override {
    io_uring_params parameters = {};
    const OwnedFd ring{static_cast<int>(::syscall(SYS_io_uring_setup, 1, &parameters))};
    return ring ? 0 : errno;
  }

  [[nodiscard]] int landlock_version() const override {
    const long version = ::syscall(SYS_landlock_create_ruleset, nullptr, 0, LANDLOCK_CREATE_RULESET_VERSION);
    return static_cast<int>(std::max(version, 0L));
  }
};

}  // namespace

std::optional<std::string> HostRoot::read(std::string_view name) const {
  const OwnedFd file{::open(path(name).c_str(), O_RDONLY | O_CLOEXEC)};
  if (!file) return std::nullopt;
  std::string text;
  std::array<char, 4096> part;
  while (text.size() < kMaximumFile) {
    const ssize_t count = ::read(file.get(), part.data(), part.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return std::nullopt;
    if (count == 0) break;
    text.append(part.data(), static_cast<std::size_t>(count));
  }
  text.erase(text.find_last_not_of(kWhiteSpace) + 1);
  return text;
}

std::optional<std::int64_t> HostRoot::read_number(std::string_view name) const {
  const auto text = read(name);
  if (!text) return std::nullopt;
  std::int64_t number = 0;
  if (std::from_chars(text->data(), text->data() + text->size(), number).ec != std::errc{}) return std::nullopt;
  return number;
}

bool HostRoot::exists(std::string_view name) const {
  std::error_code error;
  return std::filesystem::exists(path_ / name, error);
}

std::vector<std::string> HostRoot::list(std::string_view name) const {
  std::vector<std::string> names;
  std::error_code error;
  for (std::filesystem::directory_iterator entry{path_ / name, error}, end; !error && entry != end;
       entry.increment(error))
    names.push_back(entry->path().filename().string());
  std::ranges::sort(names);
  return names;
}

const HostCalls& real_host_calls() {
  static const RealHostCalls calls;
  return calls;
}

bool has_word(std::string_view words, std::string_view word) noexcept {
  while (true) {
    const std::size_t start = words.find_first_not_of(kWhiteSpace);
    if (start == std::string_view::npos) return false;
    words.remove_prefix(start);
    const std::size_t length = std::min(words.find_first_of(kWhiteSpace), words.size());
    if (words.substr(0, length) == word) return true;
    words.remove_prefix(length);
  }
}

}  // namespace mayfly
