#include "rootfs-tools/template/build.h"

#include "api/client/monitor_process.h"
#include "rootfs-tools/agent/host/agent_client.h"
#include "rootfs-tools/agent/host/place.h"
#include "rootfs-tools/agent/protocol.h"
#include "rootfs-tools/clones/function.h"
#include "rootfs-tools/image/output_file.h"
#include "rootfs-tools/image/run_file.h"
#include "rootfs-tools/template/build_place.h"
#include "rootfs-tools/template/file_digest.h"
#include "rootfs-tools/template/initrd.h"
#include "rootfs-tools/template/make_layer.h"
#include "rootfs-tools/template/verify.h"
#include "rootfs-tools/template/warm_up.h"
#include "vmm/base/files.h"
#include "vmm/base/held_signals.h"
#include "vmm/base/json_writer.h"
#include "vmm/base/printable.h"
#include "vmm/base/try.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <filesystem>
#include <span>
#include <utility>

#include <fmt/format.h>

namespace mayfly::image {
namespace {

namespace fs = std::filesystem;
using clones::Template;

constexpr std::size_t kLargestProgram = std::size_t{64} << 20;
constexpr std::size_t kShownConsole = 2000;
constexpr std::uint64_t kKeptConsole = std::uint64_t{1} << 20;
constexpr const char* kBootArgs =
    "console=ttyS0 quiet reboot=k panic=1 nomodule i8042.noaux i8042.nomux i8042.dumbkbd swiotlb=noforce "
    "mayfly.image=/dev/vda mayfly.overlay=/dev/vdb";

/// Removed with the object.
class Scratch {
 public:
  explicit Scratch(fs::path path) : path_(std::move(path)) {}
  Scratch(Scratch&& other) noexcept : path_(std::exchange(other.path_, {})) {}
  Scratch& operator=(Scratch&&) = delete;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { remove(); }
  [[nodiscard]] std::string file(std::string_view name) const { return path_ / name; }
  [[nodiscard]] const fs::path& path() const { return path_; }
  void keep() { path_.clear(); }
  void remove() {
    std::error_code none;
    if (!path_.empty()) fs::remove_all(std::exchange(path_, {}), none);
  }

 private:
  fs::path path_;
};

/// For what the template does not keep: within it, where a kill leaves nothing that the next build does not remove; elsewhere
/// where paths of sockets would be too long there.
Result<std::string> make_scratch(const std::string& directory) {
  constexpr std::size_t kLongestPlace =
      sizeof(sockaddr_un::sun_path) - std::string_view{"/recording.socket"}.size() - 1;
  std::string path = directory + "/.build";
  if (path.size() <= kLongestPlace) {
    if (::mkdir(path.c_str(), 0700) != 0) return fail_errno(ErrorKind::System, "cannot make {}", path);
    return path;
  }
  path = fs::temp_directory_path() / "mayfly-template-XXXXXX";
  if (::mkdtemp(path.data()) == nullptr) return fail_errno(ErrorKind::System, "cannot make a directory like {}", path);
  return path;
}

template <typename Write>
std::string json_of(Write write) {
  JsonWriter json;
  json.begin_object();
  write(json);
  json.end_object();
  return std::move(json).take();
}

std::string drive_json(const char* name, const std::string& path, bool read_only) {
  return json_of([&](JsonWriter& json) {
    json.field("drive_id", name);
    json.field("path_on_host", path);
    json.field("is_root_device", false);
    json.field("is_read_only", read_only);
  });
}

class TemplateBuilder {
 public:
  TemplateBuilder(const BuildOrder& order, Scratch made, Scratch scratch, HeldSignals& signals)
      : order_(order),
        signals_(signals),
        interrupt_(signals.watch()),
        made_(std::move(made)),
        scratch_(std::move(scratch)) {}

  Result<Template> build() {
    auto facts = TRY(make_files());
    step("Booting it");
    TRY(boot_and_save());
    if (ready_port_ != 0) {
      step("Learning what the first request needs");
      TRY(record());
    }
    auto made = TRY(describe(facts));
    TRY(publish(made));
    return made;
  }

 private:
  void step(std::string_view name) {
    end_where_interrupted();
    if (order_.on_step) order_.on_step(name);
  }
  /// Where nothing runs but ourselves: what there is of it goes, and then we.
  void end_where_interrupted() {
    if (signals_.waiting() == 0) return;
    scratch_.remove();
    made_.remove();
    signals_.let_through();
  }
  [[nodiscard]] std::string file(const char* name) const { return made_.file(name); }

  Result<BaseFacts> make_files() {
    BaseOrder base = order_.base;
    base.output = file(clones::kBaseName);
    base.config = file(clones::kRunName);
    base.cancel = interrupt_.get();
    base.on_progress = [this](std::string_view name, std::uint64_t done, std::uint64_t total) {
      end_where_interrupted();
      if (order_.base.on_progress) order_.base.on_progress(name, done, total);
    };
    auto facts = TRY(make_base(base));
    if (!facts.run.init.empty() && !order_.more_arguments.contains("mayfly.run="))
      return fail(
          ErrorKind::Unsupported,
          "--image {}: its program is {}, which runs as process 1 alone, and in a guest that is Mayfly's init; build "
          "the image with another entrypoint, or run one of its services by --append 'mayfly.run=\"COMMAND\"'",
          base.image, facts.run.init);
    if (order_.ready_port) {
      ready_port_ = *order_.ready_port;
    } else {
      const auto tcp = std::ranges::find(facts.run.ports, "tcp", &ExposedPort::protocol);
      if (tcp != facts.run.ports.end()) ready_port_ = tcp->port;
    }
    if (ready_port_ == 0 && !order_.warm_up.empty())
      return fail(ErrorKind::InvalidArgument,
                  "--warm-up {}: the image exposes no TCP port; say by --ready-port where the function serves",
                  order_.warm_up);
    TRY(write_initrd(facts.run));
    TRY(make_layer(file(clones::kLayerName), order_.layer_bytes));
    return facts;
  }

  Status write_initrd(const RunConfig& run) const {
    const auto run_file = TRY(to_run_file(run));
    const auto init = TRY(read_file(order_.init, "--init " + order_.init, kLargestProgram));
    const auto agent = TRY(read_file(order_.agent, "--agent " + order_.agent, kLargestProgram));
    const auto initrd = TRY(make_initrd({{.name = "dev", .mode = S_IFDIR | 0755},
                                         {.name = "mayfly", .mode = S_IFDIR | 0755},
                                         {.name = "init", .mode = S_IFREG | 0755, .data = init},
                                         {.name = "mayfly/agent", .mode = S_IFREG | 0755, .data = agent},
                                         {.name = "mayfly/run", .mode = S_IFREG | 0644, .data = run_file}}));
    auto output = TRY(OutputFile::create(scratch_.file("initrd"), "the initial RAM disk"));
    if (!write_all_at(output.fd(), std::as_bytes(std::span{initrd}), 0))
      return fail_errno(ErrorKind::System, "{} cannot be written", scratch_.file("initrd"));
    return output.publish();
  }

  Result<MonitorProcess> start_monitor(const char* id) const {
    return MonitorProcess::start(
        {.binary = order_.monitor, .directory = scratch_.path(), .id = id, .cancel = interrupt_.get()});
  }

  Status configure(const MonitorApi& api) const {
    const auto put = [&api](const char* path, auto write) { return api.request("PUT", path, json_of(write)); };
    TRY(put("/machine-config", [&](JsonWriter& json) {
      json.field("vcpu_count", order_.vcpus);
      json.field("mem_size_mib", order_.memory_mib);
    }));
    TRY(put("/boot-source", [&](JsonWriter& json) {
      json.field("kernel_image_path", fs::absolute(order_.kernel).native());
      json.field("initrd_path", scratch_.file("initrd"));
      json.field("boot_args", order_.more_arguments.empty() ? kBootArgs : kBootArgs + (' ' + order_.more_arguments));
    }));
    TRY(api.request("PUT", "/drives/base", drive_json(clones::kBaseName, file(clones::kBaseName), true)));
    TRY(api.request("PUT", "/drives/layer", drive_json(clones::kLayerName, file(clones::kLayerName), false)));
    TRY(put("/network-interfaces/eth0", [](JsonWriter& json) { json.field("iface_id", "eth0"); }));
    TRY(api.request("PUT", "/mmds/config", R"({"network_interfaces": ["eth0"], "version": "V2"})"));
    TRY(put(fmt::format("/channels/{}", agent::kDefaultPort).c_str(), [&](JsonWriter& json) {
      json.field("port", agent::kDefaultPort);
      json.field("uds_path", scratch_.file(agent::kAgentSocket));
      json.field("listen", true);
    }));
    return api.request("PUT", "/serial", serial_json());
  }

  [[nodiscard]] std::string serial_json() const {
    return json_of([&](JsonWriter& json) {
      json.field("serial_out_path", scratch_.file("console"));
      json.field("max_bytes", kKeptConsole);
    });
  }

  /// What the guest said last, for the error that it gave no answer.
  [[nodiscard]] std::string last_words() const {
    const OwnedFd file{::open(scratch_.file("console").c_str(), O_RDONLY | O_CLOEXEC)};
    const off_t end = ::lseek(file.get(), 0, SEEK_END);
    if (end <= 0) return "; the guest has said nothing";
    std::string text(std::min(kShownConsole, static_cast<std::size_t>(end)), '\0');
    text.resize(read_all_at(file.get(), std::as_writable_bytes(std::span{text}),
                            static_cast<std::uint64_t>(end) - text.size()));
    return "; the guest said last:\n" + printable_lines(text);
  }

  /// Waits until the function is there, and asks it once.
  Status use(Deadline deadline) const {
    auto connection =
        TRY(clones::await_function(scratch_.file(agent::kAgentSocket), ready_port_, deadline, interrupt_.get()));
    if (!connection || order_.warm_up.empty()) return {};
    return warm_up(std::move(*connection), order_.warm_up, deadline, interrupt_.get());
  }

  /// Lets the guest do what it has put off.
  Status rest() {
    if (order_.rest.count() == 0) return {};
    step("Letting it rest");
    if (is_ready_by(Deadline::clock::now() + order_.rest, interrupt_.get(), POLLIN))
      return fail(ErrorKind::State, "interrupted");
    return {};
  }

  Status boot_and_save() {
    const Deadline deadline = Deadline::clock::now() + order_.patience;
    const auto monitor = TRY(start_monitor("template"));
    TRY(configure(monitor.api()));
    TRY(monitor.api().request("PUT", "/actions", R"({"action_type": "InstanceStart"})"));
    if (auto used = use(deadline); !used)
      return fail(used.error().kind, "the machine did not get ready: {}{}", used.error().message, last_words());
    TRY(rest());
    step("Taking the snapshot");
    TRY(monitor.api().request("PATCH", "/vm", R"({"state": "Paused"})"));
    const std::string snapshot = json_of([&](JsonWriter& json) {
      json.field("snapshot_path", file(clones::kStateName));
      json.field("mem_file_path", file(clones::kMemoryName));
    });
    return monitor.api().request("PUT", "/snapshot/create", snapshot, Deadline::clock::now() + kSnapshotPatience);
  }

  /// A clone's first request, seen page by page.
  Status record() const {
    std::error_code none;
    fs::remove(scratch_.file(agent::kAgentSocket), none);
    const Template so_far{.directory = made_.path()};
    const auto monitor = TRY(start_monitor("recording"));
    TRY(monitor.api().request("PUT", "/serial", serial_json()));
    TRY(monitor.api().request(
        "PUT", "/snapshot/load",
        clones::load_request(so_far, {.files = made_.path(), .own = scratch_.path()}, /*records=*/true)));
    if (auto used = use(Deadline::clock::now() + order_.patience); !used)
      return fail(used.error().kind, "a clone of the snapshot did not answer: {}{}", used.error().message,
                  last_words());
    TRY(monitor.api().request("PUT", "/actions", R"({"action_type": "FinishWorkingSet"})"));
    fs::copy_file(scratch_.file(clones::kWorkingSetName), file(clones::kWorkingSetName), none);
    if (none) return fail(ErrorKind::System, "cannot write {}: {}", file(clones::kWorkingSetName), none.message());
    return {};
  }

  Result<Template> describe(const BaseFacts& facts) {
    Template made{.directory = order_.output,
                  .image = facts.image_digest,
                  .names = facts.names,
                  .vcpus = order_.vcpus,
                  .memory_mib = order_.memory_mib,
                  .ready_port = ready_port_,
                  .files = {}};
    for (const char* name : {clones::kBaseName, clones::kLayerName, clones::kStateName, clones::kMemoryName,
                             clones::kWorkingSetName, clones::kRunName}) {
      if (!fs::exists(file(name))) continue;
      auto described = TRY(seal(name));
      made.files.push_back(std::move(described));
    }
    return made;
  }

  /// On stable storage, and only to be read from here on.
  Result<clones::TemplateFile> seal(const char* name) {
    struct stat status{};
    const OwnedFd opened{::open(file(name).c_str(), O_RDONLY | O_CLOEXEC)};
    if (!opened || ::fchmod(opened.get(), 0444) != 0 || ::fsync(opened.get()) != 0 ||
        ::fstat(opened.get(), &status) != 0)
      return fail_errno(ErrorKind::System, "{} cannot be finished", file(name));
    clones::TemplateFile sealed{.name = name, .size = static_cast<std::uint64_t>(status.st_size)};
    const bool has_holes =
        std::string_view{name} == clones::kMemoryName || std::string_view{name} == clones::kLayerName;
    sealed.digest = TRY(digest_of_file(opened.get(), sealed.size, has_holes ? FileKind::Sparse : FileKind::Plain,
                                       file(name), [this](std::uint64_t) { end_where_interrupted(); }));
    return sealed;
  }

  Status publish(const Template& made) {
    const std::string text = with_own_digest(to_json(made));
    auto output = TRY(OutputFile::create(made_.file(clones::kTemplateFile), "template.json"));
    if (!write_all_at(output.fd(), std::as_bytes(std::span{text}), 0))
      return fail_errno(ErrorKind::System, "{} cannot be written", made_.file(clones::kTemplateFile));
    TRY(output.publish());
    scratch_.remove();
    TRY(BuildPlace::hand_over(made_.path()));
    if (::rename(made_.path().c_str(), order_.output.c_str()) != 0)
      return fail_errno(ErrorKind::System, "--output {} cannot be made", order_.output);
    made_.keep();
    return sync_directory_of(order_.output, "--output");
  }

  const BuildOrder& order_;
  HeldSignals& signals_;
  OwnedFd interrupt_;
  Scratch made_;
  Scratch scratch_;
  std::uint16_t ready_port_ = 0;
};

Status check_order(const BuildOrder& order) {
  std::error_code none;
  if (fs::exists(fs::symlink_status(order.output, none)))
    return fail(ErrorKind::InvalidArgument, "--output {} is there already; remove it, or give another path",
                order.output);
  for (const auto& [option, path] : {std::pair{"--kernel", &order.kernel}, std::pair{"--init", &order.init},
                                     std::pair{"--agent", &order.agent}, std::pair{"--monitor", &order.monitor}})
    if (::access(path->c_str(), R_OK) != 0)
      return fail_errno(ErrorKind::NotFound, "{} {} cannot be read", option, *path);
  return {};
}

}  // namespace

Result<Template> build_template(const BuildOrder& given) {
  BuildOrder order = given;
  while (order.output.size() > 1 && order.output.ends_with('/')) order.output.pop_back();
  TRY(check_order(order));
  HeldSignals until_nothing_is_half{SIGINT, SIGTERM, SIGHUP};
  const auto place = TRY(BuildPlace::take(order.output));
  const std::string& directory = place.path();
  Scratch made{directory};
  TRY(check_order(order));  // the other build may have made it
  TRY(place.clear());
  auto scratch = TRY(make_scratch(directory));
  return TemplateBuilder{order, std::move(made), Scratch{std::move(scratch)}, until_nothing_is_half}.build();
}

}  // namespace mayfly::image
