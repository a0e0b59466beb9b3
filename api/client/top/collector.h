#pragma once

#include "api/client/answer_reader.h"
#include "api/client/top/sample.h"
#include "vmm/base/error.h"
#include "vmm/base/owned_fd.h"

#include <sys/types.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

/// Samples of all machines of this host, in rounds. None waits for a machine:
///
///   collector.begin_round();
///   while (!collector.is_complete() && is_ready_by(patience, collector.fd(), POLLIN)) collector.take_answers();
///   const std::vector<Sample> samples = collector.samples();
///
/// A machine that owes an answer is not asked the same again: however long it is stopped, two connections wait there, no more.
/// One whose metrics take long (with --branches) says its state in each round all the same. One thread.
namespace mayfly::top {

class Collector {
 public:
  /// `proc`: a procfs. Error: no descriptor is left.
  [[nodiscard]] static Result<Collector> create(std::string proc = "/proc");

  /// Looks which machines there are and what their processes use, and asks what they do not owe an answer to.
  void begin_round();
  /// Ready to be read (poll()) where an answer has come, or a part of one.
  [[nodiscard]] int fd() const noexcept { return epoll_.get(); }
  void take_answers();
  /// Whether all that were asked in this round have answered.
  [[nodiscard]] bool is_complete() const noexcept { return awaited_ == 0 && to_ask_.empty(); }
  /// By their processes. Of one that owes its state the state says so; the counters are the latest that came.
  [[nodiscard]] std::vector<Sample> samples() const;

 private:
  /// What is asked of a machine.
  enum class Topic : std::uint8_t { State, Metrics };
  static constexpr std::size_t kTopics = 2;
  struct Question {
    OwnedFd socket;
    AnswerReader reader;
    unsigned round = 0;
  };
  struct Machine {
    Sample sample;
    std::array<std::optional<Question>, kTopics> questions;
    [[nodiscard]] bool owes(Topic topic) const { return questions.at(static_cast<std::size_t>(topic)).has_value(); }
  };

  Collector(std::string proc, OwnedFd epoll) : proc_(std::move(proc)), epoll_(std::move(epoll)) {}
  void forget_the_gone(const std::vector<RunningMachine>& running);
  void look_at(const RunningMachine& running);
  void ask_more();
  [[nodiscard]] Status ask(Machine& machine, Topic topic);
  void take_answer(pid_t pid, Topic topic);
  static void answered(Machine& machine, Topic topic, const Result<std::string>& body);
  void drop(std::optional<Question>& question);

  std::string proc_;
  OwnedFd epoll_;
  std::map<pid_t, Machine> machines_;
  std::deque<pid_t> to_ask_;  ///< In this round, once others have answered.
  std::size_t open_ = 0;      ///< Questions without an answer, of any round.
  std::size_t awaited_ = 0;   ///< Of these, those of this round.
  unsigned round_ = 0;
};

}  // namespace mayfly::top
