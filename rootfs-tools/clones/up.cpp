#include "rootfs-tools/clones/up.h"

#include "api/client/monitor_process.h"
#include "api/client/running.h"
#include "rootfs-tools/agent/host/place.h"
#include "rootfs-tools/clones/function.h"
#include "rootfs-tools/clones/removal.h"
#include "rootfs-tools/clones/starting_mark.h"
#include "rootfs-tools/clones/template_file.h"
#include "vmm/base/files.h"
#include "vmm/base/held_signals.h"
#include "vmm/base/json_writer.h"
#include "vmm/base/machine_id.h"
#include "vmm/base/printable.h"
#include "vmm/base/random.h"
#include "vmm/base/try.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cctype>
#include <utility>

#include <fmt/format.h>

namespace mayfly::clones {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kLongestName = 48;  // of a template's in ids
constexpr std::size_t kLongestMetadata = std::size_t{1} << 20;
constexpr uid_t kFirstUser = 0x4000'0000;  // and as many from there on

/// "app.template" and a number: "app-3f2a9c01".
Result<std::string> new_id(const std::string& directory) {
  std::string name = fs::path{directory}.filename().stem();
  std::erase_if(name, [](char c) { return c != '-' && std::isalnum(static_cast<unsigned char>(c)) == 0; });
  name.erase(0, name.find_first_not_of('-'));  // or it would be an option's
  if (name.empty()) name = "clone";
  if (name.size() > kLongestName) name.resize(kLongestName);
  std::array<std::byte, 4> number;
  TRY(fill_with_random(number, "name the clone"));
  return name + '-' + hexadecimal_digits(number);
}

fs::path program_of(const UpOptions& options) {
  std::error_code none;
  return options.monitor.empty() ? fs::read_symlink("/proc/self/exe", none) : fs::path{options.monitor};
}

bool is_jailed(const UpOptions& options) { return options.jail.value_or(::geteuid() == 0); }

Status write_small_file(const fs::path& path, const std::string& text) {
  const OwnedFd file{::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600)};
  if (file && ::write(file.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size())) return {};
  return fail_errno(ErrorKind::System, "cannot write {}", path.native());
}

/// A clone that is not up yet: what there is of it goes with the object, unless it stays.
class Starting {
 public:
  /// `interrupt`: ends what waits for the clone's answer.
  Starting(const UpOptions& options, Template from, std::string id, StartingMark mark, Deadline deadline, int interrupt)
      : options_(options),
        template_(std::move(from)),
        id_(std::move(id)),
        jailed_(is_jailed(options)),
        deadline_(deadline),
        interrupt_(interrupt),
        mark_(std::move(mark)) {}
  Starting(const Starting&) = delete;
  Starting& operator=(const Starting&) = delete;
  ~Starting() {
    if (stays_) return;
    monitor_.reset();
    if (made_.empty()) return;
    const ClonePlace place{.directory = directory_, .jail_base = jailed_ ? options_.bases.jails : std::string{}};
    std::error_code none;
    if (!remove_clone(id_, place, jailer_beside(options_.monitor))) fs::remove_all(made_, none);
  }

  Status start() {
    TRY(make_directory());
    TRY(start_monitor());
    const MonitorApi& api = monitor_->api();
    JsonWriter serial;
    serial.begin_object();
    serial.field("serial_out_path", seen(kConsole));
    serial.field("max_bytes", options_.max_output_bytes);
    serial.end_object();
    TRY(api.request("PUT", "/serial", std::move(serial).take(), deadline_));
    JsonWriter logger;
    logger.begin_object();
    logger.field("max_bytes", options_.max_output_bytes);
    logger.end_object();
    TRY(api.request("PUT", "/logger", std::move(logger).take(), deadline_));
    if (!options_.metadata.empty()) {
      const auto text = TRY(read_file(options_.metadata, "--metadata " + options_.metadata, kLongestMetadata));
      TRY(api.request("PUT", "/mmds", text, deadline_));
    }
    return api.request("PUT", "/snapshot/load", load_request(template_, {.files = files(), .own = own()}), deadline_);
  }

  Status await_answer() const {
    (void)TRY(await_function(directory_ / agent::kAgentSocket, template_.ready_port, deadline_, interrupt_));
    return {};
  }

  void stay() {
    stays_ = true;
    mark_.remove();
    std::move(*monitor_).let_go();
  }

  /// For an error: what the monitor has said.
  [[nodiscard]] std::string last_words() const {
    auto text = read_file(made_ / kLog, "the log", std::size_t{1} << 20);
    if (!text || text->empty()) return {};
    while (text->ends_with('\n')) text->pop_back();
    text->erase(0, text->rfind('\n') + 1);
    return "; its monitor said: " + *text;
  }

 private:
  /// As the monitor sees them.
  [[nodiscard]] std::string own() const { return jailed_ ? std::string{} : directory_.native(); }
  [[nodiscard]] std::string files() const {
    return jailed_ ? std::string{} : fs::absolute(template_.directory).native();
  }
  [[nodiscard]] std::string seen(const char* name) const { return own() + '/' + name; }

  Status make_directory() {
    const fs::path place = jailed_ ? jail_directory(options_.bases.jails, id_) : run_directory(options_.bases) / id_;
    directory_ = jailed_ ? place / "root" : place;
    std::error_code error;
    fs::create_directories(place.parent_path(), error);
    if (error) return fail(ErrorKind::System, "cannot make {}: {}", place.parent_path().native(), error.message());
    if (::mkdir(place.c_str(), jailed_ ? 0755 : 0700) != 0) {
      if (errno != EEXIST) return fail_errno(ErrorKind::System, "cannot make {}", place.native());
      if (!find_clone(id_, options_.bases))
        return fail(ErrorKind::State, "{} is there, and not of mayfly up: remove it, or give another --id",
                    place.native());
      return fail(ErrorKind::State, "{} is there, of a machine that has ended: remove it by mayfly down {}",
                  place.native(), id_);
    }
    made_ = place;
    TRY(mark_.directory_is_made());
    log_ = OwnedFd{::open((made_ / kLog).c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_APPEND, 0600)};
    if (!log_) return fail_errno(ErrorKind::System, "cannot make {}", (made_ / kLog).native());
    if (!jailed_) return {};
    if (::mkdir(directory_.c_str(), 0755) != 0)
      return fail_errno(ErrorKind::System, "cannot make {}", directory_.native());
    for (const TemplateFile& file : template_.files) TRY(link_into_jail(file.name));
    if (options_.parent_cgroup.empty()) return {};
    return write_small_file(made_ / kParentCgroup, options_.parent_cgroup);
  }

  /// One file with two names: nothing is copied, and pages are shared.
  Status link_into_jail(const std::string& name) const {
    const std::string path = template_.path(name);
    if (::link(path.c_str(), (directory_ / name).c_str()) == 0) return {};
    if (errno == EXDEV)
      return fail(ErrorKind::InvalidArgument,
                  "{} is not on the file system of {}, so a jail cannot share it: give a --jail-base there, or "
                  "--no-jail",
                  path, options_.bases.jails);
    return fail_errno(ErrorKind::System, "cannot link {} into {}", path, directory_.native());
  }

  Status start_monitor() {
    const fs::path binary = program_of(options_);
    MonitorCommand command{.words = {},
                           .socket = directory_ / kApiSocket,
                           .errors = log_.get(),
                           .stays = true,
                           .ends_with_us_as_root = jailed_,
                           .deadline = deadline_,
                           .cancel = interrupt_};
    if (jailed_) {
      uid_t user = options_.user.value_or(0);
      if (!options_.user) user = TRY(new_user());
      command.words = {jailer_beside(options_.monitor),
                       "--id",
                       id_,
                       "--exec-file",
                       binary,
                       "--uid",
                       std::to_string(user),
                       "--gid",
                       std::to_string(user),
                       "--chroot-base-dir",
                       options_.bases.jails};
      std::vector<std::string>& words = command.words;
      words.insert(words.end(), options_.jailer_words.begin(), options_.jailer_words.end());
      if (!options_.parent_cgroup.empty()) words.insert(words.end(), {"--parent-cgroup", options_.parent_cgroup});
      words.insert(words.end(), {"--", "--api-sock", seen(kApiSocket)});
    } else {
      command.words = {binary, "--id", id_, "--api-sock", seen(kApiSocket)};
    }
    auto started = TRY(MonitorProcess::start(std::move(command)));
    monitor_.emplace(std::move(started));
    return {};
  }

  /// One of a thousand million, far from those of people and packages: that two of a thousand clones have the same is unlikely,
  /// and no clone can choose.
  static Result<uid_t> new_user() {
    std::array<std::byte, sizeof(uid_t)> number;
    TRY(fill_with_random(number, "choose a user for the jail"));
    return kFirstUser | std::bit_cast<uid_t>(number) % kFirstUser;
  }

  const UpOptions& options_;
  const Template template_;
  const std::string id_;
  const bool jailed_;
  const Deadline deadline_;
  const int interrupt_;
  StartingMark mark_;
  fs::path directory_;  // of its files
  OwnedFd log_;
  fs::path made_;  // with all that is in it
  std::optional<MonitorProcess> monitor_;
  bool stays_ = false;
};

/// What processes of other users and in jails say of themselves may be a lie, which would keep us from an id for as long as they
/// want. That of a jail below our base is the one that the jailer has written down.
Status check_id(const std::string& id, const Bases& bases) {
  if (!is_machine_id(id))
    return fail(ErrorKind::InvalidArgument, "--id '{}' must have 1 to 64 letters, digits and hyphens",
                printable(id, kLongestShownName));
  const auto running = running_machines();
  const bool runs = std::ranges::any_of(running, [&](const RunningMachine& each) {
    return each.id == id && each.uid == ::geteuid() && is_same_file(fmt::format("/proc/{}/root", each.pid), "/");
  });
  if (runs || place_of(id, bases, /*jailed=*/true).process != 0)
    return fail(ErrorKind::InvalidArgument, "a machine {} runs already (mayfly ps): give another --id", id);
  return {};
}

}  // namespace

Result<std::string> bring_up(const UpOptions& options) {
  const Deadline deadline = Deadline::clock::now() + std::chrono::seconds{options.patience_s};
  if (!is_jailed(options) && (!options.jailer_words.empty() || !options.parent_cgroup.empty()))
    return fail(ErrorKind::InvalidArgument, "{} is a jail's: be root, and leave --no-jail out",
                options.jailer_words.empty() ? "--parent-cgroup" : options.jailer_words.front());
  if (const fs::path program = program_of(options); program.filename() != kMonitorName)
    return fail(
        ErrorKind::InvalidArgument,
        "the program {} must be called {}: jails are named after it, and mayfly ps and mayfly down find machines "
        "by it; rename it",
        program.native(), kMonitorName);
  auto from = TRY(read_template(options.directory));
  std::string id = options.id;
  if (id.empty()) id = TRY(new_id(from.directory));
  TRY(check_id(id, options.bases));
  // Nobody would know of a clone whose start was interrupted, or whose id could not be told.
  const HeldSignals until_it_is_known{SIGINT, SIGTERM, SIGHUP, SIGPIPE};
  const OwnedFd interrupt = until_it_is_known.watch();
  const fs::path run = run_directory(options.bases);
  TRY(make_run_directory(run));
  clear_half_made(run, jailer_beside(options.monitor));
  auto mark =
      TRY(StartingMark::make(run, id, is_jailed(options) ? fs::absolute(options.bases.jails).native() : std::string{}));
  Starting clone{options, std::move(from), id, std::move(mark), deadline, interrupt.get()};
  if (auto started = clone.start(); !started)
    return fail(started.error().kind, "{}{}", started.error().message, clone.last_words());
  if (auto answered = clone.await_answer(); !answered)
    return fail(answered.error().kind, "the clone does not answer: {}{}", answered.error().message, clone.last_words());
  if (until_it_is_known.waiting() != 0) return fail(ErrorKind::State, "interrupted");
  if (options.announce) TRY(options.announce(id));
  clone.stay();
  return id;
}

}  // namespace mayfly::clones
