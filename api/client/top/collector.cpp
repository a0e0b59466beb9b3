#include "api/client/top/collector.h"

#include "api/client/api_client.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <fstream>
#include <utility>

namespace mayfly::top {
namespace {

/// Questions that wait for answers at one time: far below the 1024 descriptors that a process has by default.
constexpr std::size_t kMostOpen = 512;
/// For a connection where more wait already than the machine has room for; nothing else of a question waits. Long
/// enough that this process may lose the CPU meanwhile.
constexpr std::chrono::milliseconds kPatienceToConnect{50};
/// A terminal shows less of it.
constexpr std::size_t kLongestState = 64;
/// Far more than these files of procfs have.
constexpr std::size_t kLongestFile = 16 << 10;

/// Empty where we may not look.
std::string text_of(const std::string& path) {
  std::ifstream file{path, std::ios::binary};
  std::string text(kLongestFile, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<std::size_t>(file.gcount()));
  return text;
}

std::uint64_t tag_of(pid_t pid, std::size_t topic) { return static_cast<std::uint64_t>(pid) << 1 | topic; }

}  // namespace

Result<Collector> Collector::create(std::string proc) {
  OwnedFd epoll{::epoll_create1(EPOLL_CLOEXEC)};
  if (!epoll) return fail_errno(ErrorKind::System, "cannot wait for machines");
  return Collector{std::move(proc), std::move(epoll)};
}

void Collector::begin_round() {
  ++round_;
  awaited_ = 0;
  to_ask_.clear();
  const std::vector<RunningMachine> running = running_machines(proc_);
  forget_the_gone(running);
  for (const RunningMachine& machine : running) look_at(machine);
  // Machines without an answer for a whole round make room for those that were not asked.
  if (!to_ask_.empty() && open_ + kTopics > kMostOpen)
    for (auto& [pid, machine] : machines_)
      for (auto& question : machine.questions) drop(question);
  ask_more();
}

void Collector::forget_the_gone(const std::vector<RunningMachine>& running) {
  for (auto at = machines_.begin(); at != machines_.end();) {
    if (std::ranges::binary_search(running, at->first, {}, &RunningMachine::pid)) {
      ++at;
      continue;
    }
    for (auto& question : at->second.questions) drop(question);
    at = machines_.erase(at);
  }
}

void Collector::look_at(const RunningMachine& running) {
  Machine& machine = machines_[running.pid];
  Sample& sample = machine.sample;
  sample.machine = running;
  const std::string directory = proc_ + '/' + std::to_string(running.pid);
  const Clock::time_point now = Clock::now();
  const auto times = parse_stat(text_of(directory + "/stat"));
  // Another process by the same number.
  if (sample.times && times && sample.times->value.start_ticks != times->start_ticks) sample.counters.reset();
  sample.times.reset();
  if (times) sample.times = Timed<ProcessTimes>{.at = now, .value = *times};
  sample.memory = parse_smaps_rollup(text_of(directory + "/smaps_rollup"));
  if (running.socket.empty())
    sample.state = "no API";
  else if (!machine.owes(Topic::State) || !machine.owes(Topic::Metrics))
    to_ask_.push_back(running.pid);
}

void Collector::ask_more() {
  while (!to_ask_.empty() && open_ + kTopics <= kMostOpen) {
    Machine& machine = machines_.at(to_ask_.front());
    to_ask_.pop_front();
    Status asked;
    for (const Topic topic : {Topic::State, Topic::Metrics})
      if (asked && !machine.owes(topic)) asked = ask(machine, topic);
    if (asked) continue;
    for (auto& question : machine.questions) drop(question);
    machine.sample.state = "unreachable";
  }
}

Status Collector::ask(Machine& machine, Topic topic) {
  const RunningMachine& running = machine.sample.machine;
  const ApiClient client{running.socket, {.patience = kPatienceToConnect, .process = running.pid}};
  auto socket = client.ask(topic == Topic::State ? "/" : "/metrics/prometheus");
  if (!socket) return propagate(socket);
  epoll_event event{.events = EPOLLIN, .data = {.u64 = tag_of(running.pid, static_cast<std::size_t>(topic))}};
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, socket->get(), &event) != 0)
    return fail_errno(ErrorKind::System, "cannot wait for machine {}", running.id);
  machine.questions.at(static_cast<std::size_t>(topic)) =
      Question{.socket = std::move(*socket), .reader = {}, .round = round_};
  ++open_;
  ++awaited_;
  return {};
}

void Collector::take_answers() {
  std::array<epoll_event, 64> events{};
  const int count = ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), 0);
  for (int i = 0; i < count; ++i) {
    const std::uint64_t tag = events.at(static_cast<std::size_t>(i)).data.u64;
    take_answer(static_cast<pid_t>(tag >> 1), static_cast<Topic>(tag & 1));
  }
  ask_more();
}

void Collector::take_answer(pid_t pid, Topic topic) {
  const auto found = machines_.find(pid);
  if (found == machines_.end()) return;
  auto& question = found->second.questions.at(static_cast<std::size_t>(topic));
  if (!question) return;
  std::array<char, 16'384> piece{};
  const ssize_t count = ::recv(question->socket.get(), piece.data(), piece.size(), MSG_DONTWAIT);
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
  Status taken{};
  if (count > 0) taken = question->reader.take({piece.data(), static_cast<std::size_t>(count)});
  if (taken && count > 0 && !question->reader.is_whole()) return;
  Result<MachineAnswer> answer = taken ? std::move(question->reader).finish() : propagate(taken);
  drop(question);
  answered(found->second, topic, answer ? body_of(std::move(*answer), "it") : propagate(answer));
}

void Collector::answered(Machine& machine, Topic topic, const Result<std::string>& body) {
  Sample& sample = machine.sample;
  if (topic == Topic::State) {
    sample.state = body ? text_member(*body, "state").substr(0, kLongestState) : "unreachable";
    return;
  }
  const auto counters = body ? parse_metrics(*body) : std::nullopt;
  if (counters) sample.counters = Timed<Counters>{.at = Clock::now(), .value = *counters};
}

void Collector::drop(std::optional<Question>& question) {
  if (!question) return;
  --open_;
  if (question->round == round_) --awaited_;
  question.reset();  // closes the socket, and thereby leaves the epoll
}

std::vector<Sample> Collector::samples() const {
  std::vector<Sample> samples;
  samples.reserve(machines_.size());
  for (const auto& [pid, machine] : machines_) {
    samples.push_back(machine.sample);
    const bool was_not_asked = std::ranges::find(to_ask_, pid) != to_ask_.end();
    if (machine.owes(Topic::State) || was_not_asked) samples.back().state = "no answer";
  }
  return samples;
}

}  // namespace mayfly::top
