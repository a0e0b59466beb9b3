#include "api/client/remote.h"

#include "api/client/answer_reader.h"
#include "api/client/api_client.h"
#include "api/client/deadline.h"
#include "api/client/running.h"
#include "vmm/base/held_signals.h"
#include "vmm/base/json_writer.h"
#include "vmm/base/printable.h"
#include "vmm/base/process_fd.h"
#include "vmm/base/try.h"
#include "vmm/base/utf8.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <future>
#include <string_view>
#include <system_error>
#include <thread>

#include <fmt/format.h>

namespace mayfly {
namespace {

/// A monitor that is stopped or stuck is not to keep a list of machines waiting.
constexpr std::chrono::seconds kListPatience{2};

/// How often it is asked how far a snapshot has come, and how long that may take.
constexpr std::chrono::milliseconds kProgressEvery{200};
constexpr std::chrono::seconds kProgressPatience{2};

/// For the resume of a machine that did not answer: not another hour.
constexpr std::chrono::seconds kUndoPatience{10};

/// One that speaks to the machine's process alone.
ApiClient client_of(const RunningMachine& machine, std::chrono::milliseconds patience = ApiClientOptions{}.patience) {
  return ApiClient{machine.socket, {.patience = patience, .process = machine.pid}};
}

Result<ApiClient> reach(const std::string& name) {
  const auto machine = find_machine(name, running_machines());
  if (!machine) return std::unexpected(machine.error());
  return client_of(*machine);
}

Status print(std::string_view text, std::FILE* out) {
  if (std::fwrite(text.data(), 1, text.size(), out) != text.size() || std::fflush(out) == EOF)
    return fail_errno(ErrorKind::System, "cannot write the answer");
  return {};
}

/// As it comes; but a terminal would obey it.
Status print_answer(const std::string& answer, std::FILE* out) {
  return ::isatty(::fileno(out)) == 1 ? print(printable_lines(answer), out) : print(answer, out);
}

Result<std::string> state_of(const ApiClient& client) {
  auto info = client.send("GET", "/");
  if (!info) return info;
  return text_member(*info, "state");
}

Status set_state(const ApiClient& client, const char* state) {
  JsonWriter json;
  json.begin_object();
  json.field("state", state);
  json.end_object();
  auto answer = client.send("PATCH", "/vm", std::move(json).take());
  if (!answer) return propagate(answer);
  return {};
}

Status set_state(const std::string& machine, const char* state) {
  auto client = reach(machine);
  if (!client) return propagate(client);
  return set_state(*client, state);
}

/// After a pause that failed: one that was not refused may have been carried out, though its answer has not come.
std::unexpected<Error> undo_pause(const ApiClient& client, Error failure) {
  if (failure.kind == ErrorKind::State) return std::unexpected(std::move(failure));
  const auto resumed = set_state(client, "Resumed");
  // If the resume is refused, the machine is not paused.
  if (resumed || resumed.error().kind == ErrorKind::State) return std::unexpected(std::move(failure));
  return fail(failure.kind, "{}; {}; if it is paused, mayfly resume resumes it", failure.message,
              resumed.error().message);
}

/// The monitor may live in another directory. The API's text is JSON, whose writer replaces bytes that are not UTF-8: it would
/// be another file's name.
Result<std::string> absolute_path(std::string_view option, const std::string& path) {
  if (path.empty()) return fail(ErrorKind::InvalidArgument, "{} must be the path of a file", option);
  std::error_code failure;
  std::string absolute = std::filesystem::absolute(path, failure).native();
  if (failure)
    return fail(ErrorKind::System, "{} {}: the working directory has no path ({}); give an absolute path", option, path,
                errno_text(failure.value()));
  if (!is_utf8(absolute))
    return fail(ErrorKind::InvalidArgument, "{} {}: the API takes paths in UTF-8 alone; give another path", option,
                absolute);
  return absolute;
}

/// With paths as the monitor is to be asked.
Result<RemoteSnapshot> with_absolute_paths(RemoteSnapshot snapshot) {
  snapshot.state = TRY(absolute_path("--state", snapshot.state));
  snapshot.memory = TRY(absolute_path("--memory", snapshot.memory));
  for (RemoteSnapshot::Frozen& each : snapshot.frozen)
    each.file = TRY(absolute_path("--freeze " + each.drive, each.file));
  return snapshot;
}

std::string snapshot_request(const RemoteSnapshot& snapshot) {
  JsonWriter json;
  json.begin_object();
  json.field("snapshot_type", snapshot.diff ? "Diff" : "Full");
  if (snapshot.live) json.field("live", true);
  if (snapshot.max_copied_mib) json.field("max_copied_mib", *snapshot.max_copied_mib);
  json.field("snapshot_path", snapshot.state);
  json.field("mem_file_path", snapshot.memory);
  if (!snapshot.frozen.empty()) {
    json.key("frozen_drives");
    json.begin_array();
    for (const RemoteSnapshot::Frozen& each : snapshot.frozen) {
      json.begin_object();
      json.field("drive_id", each.drive);
      json.field("path_on_host", each.file);
      json.end_object();
    }
    json.end_array();
  }
  json.end_object();
  return std::move(json).take();
}

/// A bar on a terminal, drawn over itself; nothing where there is none.
class ProgressBar {
 public:
  ProgressBar() = default;
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;
  ~ProgressBar() {
    if (drawn_) draw("\r\033[K");
  }
  [[nodiscard]] bool is_shown() const noexcept { return shown_; }
  void show(std::uint64_t done_bytes, std::uint64_t total_bytes) {
    constexpr std::size_t kWidth = 40;
    const std::uint64_t total = total_bytes >> 20;
    const std::uint64_t done = std::min(done_bytes >> 20, total);
    if (total == 0) return;
    const auto full = static_cast<std::size_t>(static_cast<double>(done) / static_cast<double>(total) * kWidth);
    drawn_ = true;
    draw(fmt::format("\r[{:<{}}] {} of {} MiB", std::string(std::min(full, kWidth), '#'), kWidth, done, total));
  }

 private:
  static void draw(const std::string& text) {
    (void)std::fwrite(text.data(), 1, text.size(), stderr);
    (void)std::fflush(stderr);
  }
  bool shown_ = ::isatty(STDERR_FILENO) == 1;
  bool drawn_ = false;
};

/// Cancels the snapshot with that state file: whether it is over with it. Not another client's; and one that has not begun is
/// cancelled later.
bool cancel_live(const RunningMachine& machine, const std::string& state, HeldSignals& signals) {
  const ApiClient client = client_of(machine, kUndoPatience);
  const auto status = client.send("GET", "/snapshot");
  if (status && text_member(*status, "snapshot_path") != state) return false;
  const auto done = status ? client.send("DELETE", "/snapshot") : status;
  // One that does not hear is not waited for: the signal has its usual effect.
  if (!done && done.error().kind != ErrorKind::State) signals.let_through();
  return done.has_value();
}

/// Asks for the snapshot on a thread of its own, since the answer comes when its files are whole. A signal to end cancels it.
Status take_live(const RunningMachine& machine, const RemoteSnapshot& snapshot) {
  const std::string request = snapshot_request(snapshot);
  const ApiClient asking = client_of(machine, kProgressPatience);
  HeldSignals until_it_is_over{SIGINT, SIGTERM, SIGHUP};
  ProgressBar bar;
  std::promise<Result<std::string>> answer;
  auto taken = answer.get_future();
  const std::jthread thread{[&] { answer.set_value(client_of(machine).send("PUT", "/snapshot/create", request)); }};
  for (bool cancelled = false; taken.wait_for(kProgressEvery) != std::future_status::ready;) {
    if (!cancelled && until_it_is_over.waiting() != 0)
      cancelled = cancel_live(machine, snapshot.state, until_it_is_over);
    if (!bar.is_shown()) continue;
    const auto status = asking.send("GET", "/snapshot");
    if (!status) continue;  // the answer to the snapshot's own request says what is wrong
    bar.show(number_member(*status, "done_bytes"), number_member(*status, "total_bytes"));
  }
  const auto outcome = taken.get();
  if (!outcome) return std::unexpected(outcome.error());
  return {};
}

/// The keys of a paused machine are seen once it goes on.
Status ask_to_shut_down(const RunningMachine& machine, Deadline deadline) {
  auto pressed =
      client_of(machine, time_left(deadline)).send("PUT", "/actions", R"({"action_type": "SendCtrlAltDel"})");
  if (!pressed) return propagate(pressed, "the guest was not asked to shut down (--now ends the monitor without)");
  const auto state = state_of(client_of(machine, time_left(deadline)));
  // Without an answer it is ending.
  return state && *state == "Paused" ? set_state(client_of(machine, time_left(deadline)), "Resumed") : Status{};
}

}  // namespace

Status list_machines(std::FILE* out) {
  std::string text = fmt::format("{:<24} {:>8} {:>10} {:<12} {}\n", "ID", "PID", "UID", "STATE", "SOCKET");
  for (const auto& [depth, machine] : as_tree(running_machines())) {
    std::string state = "no API";
    if (!machine.socket.empty()) state = state_of(client_of(machine, kListPatience)).value_or("unreachable");
    text += fmt::format("{:<24} {:>8} {:>10} {:<12} {}\n", std::string(2 * depth, ' ') + machine.id, machine.pid,
                        machine.uid, printable(state, kLongestShownName),
                        machine.socket.empty() ? "-" : printable(machine.socket, kLongestShownName));
  }
  return print(text, out);
}

Status pause_machine(const std::string& machine) { return set_state(machine, "Paused"); }

Status resume_machine(const std::string& machine) { return set_state(machine, "Resumed"); }

Status revert_machine(const RemoteRevert& revert) {
  auto client = reach(revert.machine);
  if (!client) return propagate(client);
  JsonWriter json;
  json.begin_object();
  json.field("resume_vm", !revert.paused);
  json.field("clock_realtime", revert.clock_realtime);
  json.end_object();
  auto reverted = client->send("PUT", "/snapshot/revert", std::move(json).take());
  return reverted ? Status{} : propagate(reverted);
}

Status snapshot_machine(const RemoteSnapshot& given) {
  const RemoteSnapshot snapshot = TRY(with_absolute_paths(given));
  const auto machine = find_machine(snapshot.machine, running_machines());
  if (!machine) return std::unexpected(machine.error());
  const ApiClient client = client_of(*machine);
  if (snapshot.live) return take_live(*machine, snapshot);
  const std::string request = snapshot_request(snapshot);
  auto state = state_of(client);
  if (!state) return propagate(state);
  if (*state != "Running") {
    auto taken = client.send("PUT", "/snapshot/create", request);
    return taken ? Status{} : propagate(taken);
  }
  const HeldSignals until_it_resumes{SIGINT, SIGTERM, SIGHUP};
  if (auto paused = set_state(client, "Paused"); !paused)
    return undo_pause(client_of(*machine, kUndoPatience), std::move(paused.error()));
  auto taken = client.send("PUT", "/snapshot/create", request);
  auto resumed = set_state(client, "Resumed");
  if (!resumed)
    return fail(resumed.error().kind, "{}{}; the machine is paused (mayfly resume)",
                taken ? "" : taken.error().message + "; ", resumed.error().message);
  return taken ? Status{} : propagate(taken);
}

Status stop_machine(const RemoteStop& stop) {
  const Deadline deadline = Deadline::clock::now() + std::chrono::seconds{std::min(stop.timeout_s, 86'400U)};
  const auto machine = find_machine(stop.machine, running_machines());
  if (!machine) return std::unexpected(machine.error());
  auto process = client_of(*machine, time_left(deadline)).process();
  if (!process) return propagate(process);
  if (stop.now) {
    if (!signal_process(*process, SIGTERM))
      return fail_errno(ErrorKind::Permission, "cannot end the monitor of {}", stop.machine);
  } else {
    TRY(ask_to_shut_down(*machine, deadline));
  }
  if (is_ready_by(deadline, process->get(), POLLIN)) return {};
  return fail(ErrorKind::State, "{} has not ended within {} s{}", stop.machine, stop.timeout_s,
              stop.now ? "; its process (mayfly ps) may be suspended" : "; --now ends it without asking its guest");
}

Status print_config(const std::string& machine, std::FILE* out) {
  auto client = reach(machine);
  if (!client) return propagate(client);
  auto config = client->send("GET", "/vm/config");
  if (!config) return propagate(config);
  return print_answer(*config + '\n', out);
}

Status print_metrics(const std::string& machine, std::FILE* out) {
  auto client = reach(machine);
  if (!client) return propagate(client);
  auto metrics = client->send("GET", "/metrics/prometheus");
  if (!metrics) return propagate(metrics);
  return print_answer(*metrics, out);
}

}  // namespace mayfly
