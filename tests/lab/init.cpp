// PID 1 of the lab: turns a bare Linux in QEMU into "this machine, with AMD-V", runs one command, reports, ends QEMU.
//
// A program of its own instead of a script, for three reasons: the lab's start is mostly the start of processes, and
// this starts one; kernel threads share PID 1's root, so they find modprobe when a module is wanted on demand; and the
// command's last bytes are on the host before its exit status is.
//
// tests/lab/lab puts these files beside it in the initramfs:
//   /modules/root, /modules/kvm   names of the modules under /lib, one a line, in load order: what leads to the root,
//              and what the command wants besides
//   /session   records that end in NUL: "merged" or "split" output, working directory, module tree, number of
//              environment entries, the entries, then the command and its arguments
// and attaches 9p "host" (this machine, read-only) and "share" (writable), and virtio-serial ports 1 (standard
// output), 2 (standard error) and 3 (exit status).

#include <fcntl.h>
#include <glob.h>
#include <net/if.h>
#include <poll.h>
#include <sys/io.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

// NOLINTBEGIN(concurrency-mt-unsafe): this program has one thread.

namespace {

constexpr unsigned short kDebugExitPort = 0xf4;  // isa-debug-exit, as tests/lab/lab places it
constexpr std::size_t kPortWriteBytes = 32'768;  // the most that a port takes at once
constexpr int kPortDeadlineMs = 10'000;          // the serial ports appear while their driver talks to QEMU

[[noreturn]] void end_machine() {
  if (ioperm(kDebugExitPort, 1, 1) == 0) {
    outb(0, kDebugExitPort);
  }
  reboot(RB_AUTOBOOT);  // QEMU runs with -no-reboot
  for (;;) {
    pause();
  }
}

/// The message goes to the console, whose tail tests/lab/lab shows when no exit status arrived.
[[noreturn]] void fail(const std::string& what) {
  std::fprintf(stderr, "lab: %s: %s\n", what.c_str(), std::strerror(errno));
  end_machine();
}

std::string read_file(const char* path) {
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    fail(std::string("cannot open ") + path);
  }
  std::string content;
  std::array<char, 4096> piece;
  ssize_t length = 0;
  while ((length = read(fd, piece.data(), piece.size())) > 0) {
    content.append(piece.data(), static_cast<std::size_t>(length));
  }
  close(fd);
  return content;
}

/// Settings that a lab can live without: a kernel that lacks one must not end the session.
void write_if_possible(const char* path, std::string_view content) {
  const int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd >= 0) {
    [[maybe_unused]] const ssize_t written = write(fd, content.data(), content.size());
    close(fd);
  }
}

std::vector<std::string> split(const std::string& content, char end) {
  std::vector<std::string> records;
  for (std::size_t begin = 0, stop = 0; (stop = content.find(end, begin)) != std::string::npos; begin = stop + 1) {
    records.push_back(content.substr(begin, stop - begin));
  }
  return records;
}

void make_directories(const std::string& path) {
  for (std::size_t slash = path.find('/', 1); slash != std::string::npos; slash = path.find('/', slash + 1)) {
    mkdir(path.substr(0, slash).c_str(), 0755);
  }
  mkdir(path.c_str(), 0755);
}

enum class Need { kRequired, kOptional };

void mount_at(const char* type, const char* source, const std::string& target, unsigned long flags,
              const char* options = "", Need need = Need::kRequired) {
  make_directories(target);
  if (mount(source, target.c_str(), type, flags, options) != 0 && need == Need::kRequired) {
    fail("cannot mount " + target);
  }
}

struct Session {
  bool merged_output = false;
  std::string directory;
  std::string module_tree;
  std::vector<std::string> environment;
  std::vector<std::string> command;
};

Session read_session() {
  constexpr std::size_t kFixedRecords = 4;
  const auto records = split(read_file("/session"), '\0');
  errno = EINVAL;
  if (records.size() <= kFixedRecords) {
    fail("malformed /session");
  }
  const auto entries = static_cast<std::size_t>(std::strtoul(records[3].c_str(), nullptr, 10));
  if (records.size() <= kFixedRecords + entries) {
    fail("malformed /session");
  }
  const auto command = records.begin() + static_cast<std::ptrdiff_t>(kFixedRecords + entries);
  return {.merged_output = records[0] == "merged",
          .directory = records[1],
          .module_tree = records[2],
          .environment = {records.begin() + kFixedRecords, command},
          .command = {command, records.end()}};
}

void load_modules(const char* list) {
  for (const std::string& name : split(read_file(list), '\n')) {
    const std::string path = "/lib/" + name;
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) != 0 && errno != EEXIST)) {
      fail("cannot load the module " + name);
    }
    close(fd);
  }
}

/// This machine's files under a throw-away layer, and the kernel's file systems on top.
void enter_root() {
  // The host's files do not change under a test, and "loose" saves a round trip an open.
  mount_at("9p", "host", "/ro", MS_RDONLY, "trans=virtio,version=9p2000.L,msize=512000,cache=loose");
  mount_at("tmpfs", "lab", "/rw", 0, "mode=755,size=75%");
  make_directories("/rw/upper");
  make_directories("/rw/work");
  mount_at("overlay", "lab", "/new", 0, "lowerdir=/ro,upperdir=/rw/upper,workdir=/rw/work");
  if (chdir("/new") != 0 || mount("/new", "/", nullptr, MS_MOVE, nullptr) != 0 || chroot(".") != 0 || chdir("/") != 0) {
    fail("cannot change the root");
  }
  mount_at("proc", "proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC);
  mount_at("sysfs", "sysfs", "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC);
  mount_at("cgroup2", "cgroup2", "/sys/fs/cgroup", MS_NOSUID | MS_NODEV | MS_NOEXEC);
  mount_at("debugfs", "debugfs", "/sys/kernel/debug", 0, "", Need::kOptional);
  mount_at("devtmpfs", "devtmpfs", "/dev", MS_NOSUID, "mode=755");
  mount_at("devpts", "devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "mode=620,ptmxmode=666");
  mount_at("tmpfs", "shm", "/dev/shm", MS_NOSUID | MS_NODEV, "mode=1777");
  mount_at("hugetlbfs", "hugetlbfs", "/dev/hugepages", MS_NOSUID | MS_NODEV, "", Need::kOptional);
  mount_at("tmpfs", "run", "/run", MS_NOSUID | MS_NODEV, "mode=755");
  // "mmap" lets programs map files of the share for writing; nothing else is cached, so both sides see every write.
  mount_at("9p", "share", "/share", 0, "trans=virtio,version=9p2000.L,msize=512000,cache=mmap");
}

/// What udev and tmpfiles do elsewhere: the links, and the nodes whose first open loads a module.
void fill_dev() {
  struct Link {
    const char* target;
    const char* path;
  };
  for (const Link& link : {Link{"/proc/self/fd", "/dev/fd"}, Link{"/proc/self/fd/0", "/dev/stdin"},
                           Link{"/proc/self/fd/1", "/dev/stdout"}, Link{"/proc/self/fd/2", "/dev/stderr"}}) {
    [[maybe_unused]] const int existing = symlink(link.target, link.path);
  }
  struct Node {
    const char* path;
    unsigned minor;  // of the misc devices, Documentation/admin-guide/devices.txt
  };
  mkdir("/dev/net", 0755);
  umask(0);
  for (const Node& node : {Node{"/dev/net/tun", 200}, Node{"/dev/fuse", 229}, Node{"/dev/loop-control", 237},
                           Node{"/dev/vhost-net", 238}, Node{"/dev/vhost-vsock", 241}}) {
    constexpr unsigned kMiscMajor = 10;
    mknod(node.path, S_IFCHR | 0666, makedev(kMiscMajor, node.minor));
  }
  umask(022);
}

void raise_loopback() {
  const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  ifreq request{};
  std::strcpy(request.ifr_name, "lo");
  request.ifr_flags = IFF_UP | IFF_RUNNING;
  if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &request) != 0) {
    fail("cannot raise the loopback interface");
  }
  close(fd);
}

/// A machine as a Linux distribution leaves it.
void settle(const Session& session) {
  fill_dev();
  raise_loopback();
  sethostname("lab", 3);
  const rlimit files{.rlim_cur = 65'536, .rlim_max = 524'288};
  setrlimit(RLIMIT_NOFILE, &files);
  for (const char* controller : {"+cpu", "+cpuset", "+io", "+memory", "+pids", "+hugetlb"}) {
    write_if_possible("/sys/fs/cgroup/cgroup.subtree_control", controller);
  }
  utsname names{};
  uname(&names);
  mount_at(nullptr, session.module_tree.c_str(), std::string("/lib/modules/") + names.release, MS_BIND);
}

int open_port(int number) {
  // The first number is the device's place among all virtio devices.
  const std::string pattern = "/dev/vport*p" + std::to_string(number);
  for (int waited_ms = 0;; ++waited_ms) {
    glob_t found{};
    if (glob(pattern.c_str(), GLOB_NOSORT, nullptr, &found) == 0) {
      const int fd = open(found.gl_pathv[0], O_WRONLY | O_CLOEXEC);
      if (fd < 0) {
        fail(std::string("cannot open ") + found.gl_pathv[0]);
      }
      globfree(&found);
      return fd;
    }
    if (waited_ms == kPortDeadlineMs) {
      errno = ENODEV;
      fail("no serial port " + pattern);
    }
    usleep(1000);
  }
}

struct Pipe {
  int read_end = -1;
  int write_end = -1;
};

Pipe make_pipe() {
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) {
    fail("cannot make a pipe");
  }
  return {.read_end = ends[0], .write_end = ends[1]};
}

void write_all(int fd, std::span<const char> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = write(fd, bytes.data(), bytes.size());
    if (written < 0 && errno != EINTR) {
      fail("cannot write to a serial port");
    }
    bytes = bytes.subspan(static_cast<std::size_t>(written < 0 ? 0 : written));
  }
}

[[noreturn]] void become(const Session& session, int output, int error) {
  setsid();
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  const int input = open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (input < 0 || dup2(input, 0) < 0 || dup2(output, 1) < 0 || dup2(error, 2) < 0) {
    fail("cannot connect the command");
  }
  clearenv();
  for (const std::string& entry : session.environment) {
    const std::size_t equals = entry.find('=');
    setenv(entry.substr(0, equals).c_str(), entry.c_str() + equals + 1, 1);
  }
  if (chdir(session.directory.c_str()) != 0) {
    std::fprintf(stderr, "lab: cannot enter %s: %s\n", session.directory.c_str(), std::strerror(errno));
    _exit(126);
  }
  std::vector<char*> arguments;
  arguments.reserve(session.command.size() + 1);
  for (const std::string& argument : session.command) {
    arguments.push_back(const_cast<char*>(argument.c_str()));
  }
  arguments.push_back(nullptr);
  execvp(arguments[0], arguments.data());
  std::fprintf(stderr, "lab: cannot run %s: %s\n", arguments[0], std::strerror(errno));
  _exit(errno == ENOENT ? 127 : 126);  // as a shell says it
}

/// Pipes to ports, until nobody can write any more. Commands get pipes and not the ports themselves because a port
/// opens only once, and scripts reopen /dev/stderr.
class Streams {
 public:
  void add(int from, int to) { streams_[count_++] = {.from = from, .to = to}; }

  /// Copies until `event` is readable, or until all pipes ended where it is -1.
  void copy_until(int event) {
    for (;;) {
      std::array<pollfd, 3> waits{};
      waits[0] = {.fd = event, .events = POLLIN, .revents = 0};
      for (std::size_t i = 0; i < count_; ++i) {
        waits[i + 1] = {.fd = streams_[i].from, .events = POLLIN, .revents = 0};
      }
      bool open = event >= 0;
      for (std::size_t i = 0; i < count_; ++i) {
        open = open || streams_[i].from >= 0;
      }
      if (!open) {
        return;
      }
      if (poll(waits.data(), count_ + 1, -1) < 0 && errno != EINTR) {
        fail("cannot wait for output");
      }
      for (std::size_t i = 0; i < count_; ++i) {
        if (waits[i + 1].revents != 0) {
          copy_once(streams_[i]);
        }
      }
      if (waits[0].revents != 0) {
        return;
      }
    }
  }

 private:
  struct Stream {
    int from = -1;
    int to = -1;
  };

  static void copy_once(Stream& stream) {
    static std::array<char, kPortWriteBytes> bytes;
    const ssize_t length = read(stream.from, bytes.data(), bytes.size());
    if (length > 0) {
      write_all(stream.to, std::span(bytes).first(static_cast<std::size_t>(length)));
    } else if (length == 0 || errno != EINTR) {
      close(stream.from);
      stream.from = -1;
    }
  }

  std::array<Stream, 2> streams_;
  std::size_t count_ = 0;
};

/// The command's exit status once it ended; orphans that end before are reaped on the way.
int run(const Session& session, Streams& streams) {
  sigset_t child_ended;
  sigemptyset(&child_ended);
  sigaddset(&child_ended, SIGCHLD);
  sigprocmask(SIG_BLOCK, &child_ended, nullptr);
  const int ended = signalfd(-1, &child_ended, SFD_CLOEXEC);

  const Pipe output = make_pipe();
  const Pipe error = session.merged_output ? output : make_pipe();
  const pid_t command = fork();
  if (command < 0) {
    fail("cannot start a process");
  }
  if (command == 0) {
    become(session, output.write_end, error.write_end);
  }
  close(output.write_end);
  streams.add(output.read_end, open_port(1));
  if (!session.merged_output) {
    close(error.write_end);
    streams.add(error.read_end, open_port(2));
  }

  for (;;) {
    streams.copy_until(ended);
    signalfd_siginfo info;
    [[maybe_unused]] const ssize_t length = read(ended, &info, sizeof info);
    int status = 0;
    pid_t process = 0;
    while ((process = waitpid(-1, &status, WNOHANG)) > 0) {
      if (process == command) {
        return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
      }
    }
  }
}

}  // namespace

int main() {
  const Session session = read_session();
  const pid_t kvm_loader = fork();  // half a second of work, for the CPU that would idle
  if (kvm_loader == 0) {
    load_modules("/modules/kvm");
    _exit(0);
  }
  load_modules("/modules/root");
  waitpid(kvm_loader, nullptr, 0);
  enter_root();
  settle(session);

  Streams streams;
  const int status = run(session, streams);
  kill(-1, SIGKILL);  // what the command left behind holds the pipes open, and files of the share
  streams.copy_until(-1);
  while (waitpid(-1, nullptr, 0) > 0) {
  }

  umount2("/share", 0);  // writes back what programs changed through mappings
  sync();
  const std::string report = std::to_string(status) + "\n";
  write_all(open_port(3), report);
  end_machine();
}

// NOLINTEND(concurrency-mt-unsafe)
