#include "rootfs-tools/clones/up.h"

#include "api/client/monitor_process.h"
#include "api/client/running.h"
#include "rootfs-tools/agent/host/place.h"
#include "rootfs-tools/clones/function.h"
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
#include <cctype>
#include <utility>

#include <fmt/format.h>

namespace mayfly::clones {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kLongestName = 48;  // of a template's in ids
constexpr std::size_t kLongestMetadata = std::size_t{1} << 20;
constexpr uid_t kFirstUser = 0x4000'0000;

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

/// A clone that is not up yet: what there is of it goes with the object, unless it stays.
class Starting {
 public:
  /// `interrupt`: ends what waits for the clone's answer.
  Starting(const UpOptions& options, Template from, std::string id, int interrupt)
      : options_(options),
        template_(std::move(from)),
        id_(std::move(id)),
        jailed_(options.jail.value_or(::geteuid() == 0)),
        interrupt_(interrupt) {}
  Starting(const Starting&) = delete;
  Starting& operator=(const Starting&) = delete;
  ~Starting() {
    if (stays_) return;
    monitor_.reset();
    std::error_code none;
    if (!made_.empty()) fs::remove_all(made_, none);
  }

  Status start() {
    TRY(make_directory());
    TRY(start_monitor());
    const MonitorApi& api = monitor_->api();
    JsonWriter serial;
    serial.begin_object();
    serial.field("serial_out_path", seen(kConsole));
    serial.end_object();
    TRY(api.request("PUT", "/serial", std::move(serial).take()));
    if (!options_.metadata.empty()) {
      const auto text = TRY(read_file(options_.metadata, "--metadata " + options_.metadata, kLongestMetadata));
      TRY(api.request("PUT", "/mmds", text));
    }
    return api.request("PUT", "/snapshot/load", load_request(template_, {.files = files(), .own = own()}));
  }

  Status await_answer() const {
    const Deadline deadline = Deadline::clock::now() + std::chrono::seconds{options_.patience_s};
    const agent::AgentClient agent{directory_ / agent::kAgentSocket,
                                   {.patience = time_left(deadline), .cancel = interrupt_}};
    (void)TRY(await_function(agent, template_.ready_port, deadline));
    return {};
  }

  void stay() {
    stays_ = true;
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
    const fs::path place = jailed_ ? jail_directory(options_.jail_base, id_) : run_directory() / id_;
    directory_ = jailed_ ? place / "root" : place;
    std::error_code error;
    if (!jailed_) TRY(make_run_directory());
    fs::create_directories(place.parent_path(), error);
    if (error) return fail(ErrorKind::System, "cannot make {}: {}", place.parent_path().native(), error.message());
    if (::mkdir(place.c_str(), jailed_ ? 0755 : 0700) != 0) {
      if (errno != EEXIST) return fail_errno(ErrorKind::System, "cannot make {}", place.native());
      return fail(ErrorKind::State, "{} is there, of a machine that has ended: remove it by mayfly down {}",
                  place.native(), id_);
    }
    made_ = place;
    log_ = OwnedFd{::open((made_ / kLog).c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_APPEND, 0600)};
    if (!log_) return fail_errno(ErrorKind::System, "cannot make {}", (made_ / kLog).native());
    if (!jailed_) return {};
    if (::mkdir(directory_.c_str(), 0755) != 0)
      return fail_errno(ErrorKind::System, "cannot make {}", directory_.native());
    for (const TemplateFile& file : template_.files) TRY(link_into_jail(file.name));
    return {};
  }

  /// One file with two names: nothing is copied, and pages are shared.
  Status link_into_jail(const std::string& name) const {
    const std::string path = template_.path(name);
    if (::link(path.c_str(), (directory_ / name).c_str()) == 0) return {};
    if (errno == EXDEV)
      return fail(ErrorKind::InvalidArgument,
                  "{} is not on the file system of {}, so a jail cannot share it: give a --jail-base there, or "
                  "--no-jail",
                  path, options_.jail_base);
    return fail_errno(ErrorKind::System, "cannot link {} into {}", path, directory_.native());
  }

  [[nodiscard]] fs::path program() const {
    std::error_code none;
    return options_.monitor.empty() ? fs::read_symlink("/proc/self/exe", none) : fs::path{options_.monitor};
  }

  Status start_monitor() {
    const fs::path binary = program();
    MonitorCommand command{.words = {}, .socket = directory_ / kApiSocket, .errors = log_.get(), .stays = true};
    if (jailed_) {
      uid_t user = options_.user.value_or(0);
      if (!options_.user) user = TRY(new_user());
      command.words = {binary.parent_path() / "mayfly-jailer",
                       "--id",
                       id_,
                       "--exec-file",
                       binary,
                       "--uid",
                       std::to_string(user),
                       "--gid",
                       std::to_string(user),
                       "--chroot-base-dir",
                       options_.jail_base,
                       "--",
                       "--api-sock",
                       seen(kApiSocket)};
    } else {
      command.words = {binary, "--id", id_, "--api-sock", seen(kApiSocket)};
    }
    auto started = TRY(MonitorProcess::start(std::move(command)));
    monitor_.emplace(std::move(started));
    return {};
  }

  /// One of 16 million, far from those of people and packages: that two clones have the same is unlikely, and no clone can
  /// choose.
  static Result<uid_t> new_user() {
    std::array<std::byte, 3> number;
    TRY(fill_with_random(number, "choose a user for the jail"));
    uid_t user = kFirstUser;
    for (std::size_t i = 0; i < number.size(); ++i) user += static_cast<uid_t>(number[i]) << (8 * i);
    return user;
  }

  const UpOptions& options_;
  const Template template_;
  const std::string id_;
  const bool jailed_;
  const int interrupt_;
  fs::path directory_;  // of its files
  OwnedFd log_;
  fs::path made_;  // with all that is in it
  std::optional<MonitorProcess> monitor_;
  bool stays_ = false;
};

Status check_id(const std::string& id) {
  if (!is_machine_id(id))
    return fail(ErrorKind::InvalidArgument, "--id '{}' must have 1 to 64 letters, digits and hyphens",
                printable(id, kLongestShownName));
  const auto running = running_machines();
  if (std::ranges::find(running, id, &RunningMachine::id) != running.end())
    return fail(ErrorKind::InvalidArgument, "a machine {} runs already (mayfly ps): give another --id", id);
  return {};
}

}  // namespace

Result<std::string> bring_up(const UpOptions& options) {
  auto from = TRY(read_template(options.directory));
  std::string id = options.id;
  if (id.empty()) id = TRY(new_id(from.directory));
  TRY(check_id(id));
  // Nobody would know of a clone whose start was interrupted.
  const HeldSignals until_it_is_known{SIGINT, SIGTERM, SIGHUP};
  const OwnedFd interrupt = until_it_is_known.watch();
  Starting clone{options, std::move(from), id, interrupt.get()};
  if (auto started = clone.start(); !started)
    return fail(started.error().kind, "{}{}", started.error().message, clone.last_words());
  if (auto answered = clone.await_answer(); !answered)
    return fail(answered.error().kind, "the clone does not answer: {}{}", answered.error().message, clone.last_words());
  if (until_it_is_known.waiting() != 0) return fail(ErrorKind::State, "interrupted");
  clone.stay();
  return id;
}

}  // namespace mayfly::clones
