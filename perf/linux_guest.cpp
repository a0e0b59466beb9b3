#include "perf/linux_guest.h"

#include <arpa/inet.h>
#include <netinet/ip_icmp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <exception>
#include <span>
#include <sstream>
#include <string_view>

namespace mayfly::perf {

using namespace mayfly::testing;

namespace {

constexpr unsigned kMemoryMib = 256;
constexpr double kPatienceUs = 60e6;
/// Within this a monitor that has answered has made ready what a load needs.
constexpr timespec kPoolTime{.tv_sec = 0, .tv_nsec = 20'000'000};

std::string in_quotes(const std::string& text) { return '"' + text + '"'; }

/// A shell that says what it is asked, without a line editor, which would sleep; and a web server. The 16 MiB are what
/// a function's code and data would be.
std::string kernel_line(const char* extra) {
  return std::string{"console=ttyS0 quiet reboot=k panic=1 i8042.noaux i8042.nomux i8042.dumbkbd "} + extra +
         "mayfly.run=\"ip addr add 10.9.0.2/24 dev eth0; ip link set eth0 up; mkdir -p /run/www;"
         " head -c 1000 /dev/zero >/run/www/page; head -c 16M /dev/urandom >/run/large;"
         " httpd -h /run/www; echo GUEST READY;"
         " while read l; do case $l in 'run '*) eval ${l#run }; echo done-run;; *) echo ans-$l;; esac; done\"";
}

std::uint16_t checksum(std::span<const std::uint8_t> bytes) {
  std::uint32_t sum = 0;
  for (std::size_t i = 0; i + 1 < bytes.size(); i += 2) sum += static_cast<std::uint32_t>(bytes[i] << 8 | bytes[i + 1]);
  while (sum >> 16 != 0) sum = (sum & 0xFFFF) + (sum >> 16);
  return static_cast<std::uint16_t>(~sum);
}

sockaddr_in guest_port(std::uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  ::inet_pton(AF_INET, kGuestAddress, &address.sin_addr);
  return address;
}

/// Sends one echo request and waits for its answer.
void echo(int fd, std::uint16_t sequence) {
  const sockaddr_in guest = guest_port(0);
  std::array<std::uint8_t, 64> request{ICMP_ECHO};
  request[6] = static_cast<std::uint8_t>(sequence >> 8);
  request[7] = static_cast<std::uint8_t>(sequence);
  const std::uint16_t sum = checksum(request);
  request[2] = static_cast<std::uint8_t>(sum >> 8);
  request[3] = static_cast<std::uint8_t>(sum);
  if (::sendto(fd, request.data(), request.size(), 0, reinterpret_cast<const sockaddr*>(&guest), sizeof guest) < 0)
    give_up("cannot send an echo request");
  constexpr std::size_t kIpHeader = 20;
  for (std::array<std::uint8_t, 256> answer{};;) {
    const ssize_t count = ::recv(fd, answer.data(), answer.size(), 0);
    if (count < 0) give_up("the guest does not answer an echo request");
    if (static_cast<std::size_t>(count) >= kIpHeader + 8 && answer[kIpHeader] == ICMP_ECHOREPLY &&
        answer[kIpHeader + 6] == request[6] && answer[kIpHeader + 7] == request[7])
      return;
  }
}

void set_receive_timeout(int fd) {
  const timeval patience{.tv_sec = 60, .tv_usec = 0};
  ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
}

OwnedFd icmp_socket() {
  OwnedFd fd{::socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_ICMP)};
  if (!fd) give_up("cannot make a socket for ICMP");
  set_receive_timeout(fd.get());
  return fd;
}

std::string unique_socket(const ScratchDirectory& scratch) {
  static int number = 0;
  return scratch.file("linux" + std::to_string(number++));
}

void end(ChildProcess& process) {
  process.signal(SIGTERM);
  process.wait();
}

std::vector<std::string> joined(std::vector<std::string> first, const std::vector<std::string>& rest) {
  first.insert(first.end(), rest.begin(), rest.end());
  return first;
}

}  // namespace

// --- Any guest -------------------------------------------------------------------------------------------------------

void LinuxGuest::await_ready() { read_until(console_.read.get(), shown_, "GUEST READY\r\n"); }

double LinuxGuest::ask(const std::string& word) {
  shown_.clear();
  const std::string line = word + "\n";
  const double begin = now_us();
  if (::write(keys_.write.get(), line.data(), line.size()) != static_cast<ssize_t>(line.size())) give_up("cannot type");
  read_until(console_.read.get(), shown_, "ans-" + word + "\r\n");
  return (now_us() - begin) / 1e3;
}

double LinuxGuest::run(const std::string& command) {
  shown_.clear();
  const std::string line = "run " + command + "\n";
  const double begin = now_us();
  if (::write(keys_.write.get(), line.data(), line.size()) != static_cast<ssize_t>(line.size())) give_up("cannot type");
  read_until(console_.read.get(), shown_, "done-run\r\n");
  return (now_us() - begin) / 1e3;
}

double LinuxGuest::ping(unsigned count) {
  const OwnedFd fd = icmp_socket();
  echo(fd.get(), 0);  // with the look-up of the guest's address
  const double begin = now_us();
  for (unsigned i = 1; i <= count; ++i) echo(fd.get(), static_cast<std::uint16_t>(i));
  return (now_us() - begin) / 1e3 / count;
}

void LinuxGuest::ping_once() { echo(icmp_socket().get(), 0); }

double LinuxGuest::get_page() {
  const double begin = now_us();
  const sockaddr_in guest = guest_port(80);
  for (;;) {
    const OwnedFd fd{::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    set_receive_timeout(fd.get());
    if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&guest), sizeof guest) != 0) {
      if (errno != ECONNREFUSED || now_us() - begin > kPatienceUs) give_up("the guest's web server cannot be reached");
      continue;
    }
    constexpr std::string_view kRequest = "GET /page HTTP/1.0\r\n\r\n";
    if (::send(fd.get(), kRequest.data(), kRequest.size(), 0) < 0) give_up("cannot send to the guest");
    std::string answer;
    std::array<char, 4096> piece{};
    for (ssize_t got = 0; (got = ::recv(fd.get(), piece.data(), piece.size(), 0)) > 0;)
      answer.append(piece.data(), static_cast<std::size_t>(got));
    if (answer.size() < 1000 || answer.find(" 200 ") == std::string::npos) give_up("no page but:\n" + answer);
    return (now_us() - begin) / 1e3;
  }
}

// --- Mayfly ----------------------------------------------------------------------------------------------------------

MayflyGuest::MayflyGuest(const ScratchDirectory& scratch, const std::string& monitor,
                         const std::vector<std::string>& launcher, const std::vector<std::string>& more)
    : socket_(unique_socket(scratch)),
      waiter_(socket_),
      process_(joined(joined(launcher, {monitor, "--api-sock", socket_, "--boot-timer", "--level", "Error"}), more),
               {.in = keys_.read.get(), .out = console_.write.get(), .err = STDERR_FILENO}),
      connection_(waiter_.connect()) {
  console_.write.reset();
  must("GET", "/", "");
  ::nanosleep(&kPoolTime, nullptr);
}

MayflyGuest::~MayflyGuest() { end(process_); }

void MayflyGuest::must(const std::string& method, const std::string& path, const std::string& body) const {
  must_exchange(connection_.get(), method, path, body);
}

void MayflyGuest::boot(const LinuxFiles& files, unsigned vcpus, const std::string& huge_pages) {
  must("PUT", "/machine-config",
       R"({"vcpu_count": )" + std::to_string(vcpus) + R"(, "mem_size_mib": )" + std::to_string(kMemoryMib) +
           (huge_pages.empty() ? "" : R"(, "huge_pages": )" + in_quotes(huge_pages)) + "}");
  must("PUT", "/drives/root",
       R"({"drive_id": "root", "is_root_device": true, "is_read_only": true, "path_on_host": )" +
           in_quotes(files.root) + "}");
  must("PUT", "/drives/disk",
       R"({"drive_id": "disk", "is_root_device": false, "cache_type": "Unsafe", "path_on_host": )" +
           in_quotes(files.disk) + "}");
  must("PUT", "/network-interfaces/eth0",
       R"({"iface_id": "eth0", "guest_mac": "06:00:00:00:00:01", "host_dev_name": )" + in_quotes(files.tap) + "}");
  std::string line;
  for (const char c : kernel_line("")) line += c == '"' ? std::string{"\\\""} : std::string{c};
  must("PUT", "/boot-source",
       R"({"kernel_image_path": )" + in_quotes(files.kernel) + R"(, "boot_args": )" + in_quotes(line) + "}");
  must("PUT", "/actions", R"({"action_type": "InstanceStart"})");
  await_ready();
}

void MayflyGuest::save(const std::string& prefix) const {
  must("PATCH", "/vm", R"({"state": "Paused"})");
  must("PUT", "/snapshot/create",
       R"({"snapshot_path": )" + in_quotes(prefix + ".state") + R"(, "mem_file_path": )" + in_quotes(prefix + ".mem") +
           "}");
}

double MayflyGuest::load(const std::string& prefix, const LoadOptions& options) const {
  std::string body = R"({"snapshot_path": )" + in_quotes(prefix + ".state") +
                     R"(, "resume_vm": true, "mem_backend": {"backend_type": "File", "backend_path": )" +
                     in_quotes(options.memory_path.empty() ? prefix + ".mem" : options.memory_path) + "}";
  if (!options.working_set.empty())
    body += R"(, "working_set": {"mode": )" + in_quotes(options.working_set) + R"(, "path": )" +
            in_quotes(options.set_path) + "}";
  if (!options.huge_pages.empty()) body += R"(, "huge_pages": )" + in_quotes(options.huge_pages);
  if (!options.overlay.empty())
    body += R"(, "revertible": true, "drive_overrides": [{"drive_id": "disk", "base_path": )" +
            in_quotes(options.disk) + R"(, "path_on_host": )" + in_quotes(options.overlay) + "}]";
  body += "}";
  const double begin = now_us();
  must("PUT", "/snapshot/load", body);
  return (now_us() - begin) / 1e3;
}

double MayflyGuest::revert() const {
  const double begin = now_us();
  must("PUT", "/snapshot/revert", R"({"resume_vm": true})");
  return (now_us() - begin) / 1e3;
}

std::map<std::string, double> MayflyGuest::metrics() const {
  const HttpAnswer answer = exchange(connection_.get(), "GET", "/metrics/prometheus", "");
  std::map<std::string, double> all;
  std::istringstream lines{answer.body};
  for (std::string line; std::getline(lines, line);) {
    const std::size_t space = line.rfind(' ');
    if (!line.starts_with('#') && space != std::string::npos) all[line.substr(0, space)] = std::atof(&line[space + 1]);
  }
  return all;
}

// --- QEMU ------------------------------------------------------------------------------------------------------------

QemuGuest::QemuGuest(const LinuxFiles& files, unsigned vcpus, Vhost vhost)
    : process_(
          {"qemu-system-x86_64",
           "-M",
           "microvm,x-option-roms=off,rtc=off,pic=off,pit=off,isa-serial=on",
           "-enable-kvm",
           "-cpu",
           "host",
           "-m",
           std::to_string(kMemoryMib),
           "-smp",
           std::to_string(vcpus),
           "-nodefaults",
           "-no-user-config",
           "-display",
           "none",
           "-serial",
           "stdio",
           "-no-reboot",
           "-global",
           "virtio-mmio.force-legacy=false",
           "-kernel",
           files.kernel,
           "-append",
           kernel_line("root=/dev/vda ro "),
           "-object",
           "iothread,id=io0",
           "-drive",
           "if=none,id=root,format=raw,readonly=on,file=" + files.root,
           "-device",
           "virtio-blk-device,drive=root",
           "-drive",
           "if=none,id=disk,format=raw,aio=io_uring,cache=unsafe,file=" + files.disk,
           "-device",
           "virtio-blk-device,drive=disk,iothread=io0",
           "-netdev",
           "tap,id=n,ifname=" + files.tap + ",script=no,downscript=no,vhost=" + (vhost == Vhost::On ? "on" : "off"),
           "-device",
           "virtio-net-device,netdev=n,mac=06:00:00:00:00:01"},
          {.in = keys_.read.get(), .out = console_.write.get(), .err = STDERR_FILENO}) {
  console_.write.reset();
  await_ready();
}

QemuGuest::~QemuGuest() { end(process_); }

// --- A benchmark's main ----------------------------------------------------------------------------------------------

int linux_benchmark_main(
    int argc, char** argv,
    const std::function<int(const std::vector<std::string>& monitors, const LinuxFiles& files, int rounds)>& run) {
  if (argc < 7) {
    std::fprintf(stderr, "usage: %s KERNEL ROOT DISK TAP ROUNDS MONITOR [OTHER-MONITOR...]\n", argv[0]);
    return 2;
  }
  try {
    return run({argv + 6, argv + argc}, {.kernel = argv[1], .root = argv[2], .disk = argv[3], .tap = argv[4]},
               std::atoi(argv[5]));  // NOLINT
  } catch (const std::exception& failure) {
    std::fprintf(stderr, "perf: %s\n", failure.what());
    return 1;
  }
}

}  // namespace mayfly::perf
