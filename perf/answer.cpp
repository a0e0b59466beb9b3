// perf/run answer: from the load request to the first answer of a Linux clone, and its answers afterwards, by how its
// memory comes in. To be run where Linux guests run: in the lab, or on hardware.

#include "perf/frozen_guest.h"
#include "perf/guest_counts.h"
#include "perf/linux_guest.h"
#include "perf/series.h"

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace mayfly::perf {
namespace {

using namespace mayfly::testing;
namespace fs = std::filesystem;

constexpr unsigned kWarm = 10;

/// What the clone is asked.
enum class Question { Line, Page, Touch };
constexpr std::array kQuestions = {Question::Line, Question::Page, Question::Touch};

const char* name_of(Question question) {
  switch (question) {
    case Question::Line:
      return "line";
    case Question::Page:
      return "page";
    case Question::Touch:
      break;
  }
  return "16 MiB";
}

/// Milliseconds to the answer.
double ask(MayflyGuest& guest, Question question) {
  switch (question) {
    case Question::Line:
      return guest.ask("word");
    case Question::Page:
      return LinuxGuest::get_page();
    case Question::Touch:
      break;
  }
  return guest.run("cat /run/large >/dev/null");
}

/// How memory comes in.
struct Way {
  const char* name;
  bool working_set;
  const char* huge_pages;
  bool cold;  ///< The files are not in the page cache.
};
constexpr std::array kWays = {Way{"lazy", false, "", false}, Way{"working set", true, "", false},
                              Way{"2 MiB pages", false, "2M", false}, Way{"lazy, cold", false, "", true},
                              Way{"working set, cold", true, "", true}};

/// A warm guest's snapshot, and a working set for each question.
class Template {
 public:
  Template(const ScratchDirectory& scratch, const std::string& monitor, const LinuxFiles& files, unsigned vcpus)
      : scratch_(scratch),
        monitor_(monitor),
        prefix_(fs::path{files.disk}.parent_path() / ("snapshot-" + std::to_string(vcpus))) {
    {
      MayflyGuest guest{scratch, monitor};
      guest.boot(files, vcpus, "");
      for (const Question question : kQuestions)
        for (unsigned i = 0; i < 3; ++i) ask(guest, question);
      guest.save(prefix_);
    }
    for (const Question question : kQuestions) {
      MayflyGuest guest{scratch, monitor};
      guest.load(prefix_, {.working_set = "Record", .set_path = set_of(question)});
      ask(guest, question);
      guest.must("PUT", "/actions", R"({"action_type": "FinishWorkingSet"})");
    }
  }
  Template(const Template&) = delete;
  Template& operator=(const Template&) = delete;
  ~Template() {
    std::error_code ignored;
    for (const char* kind : {".state", ".mem"}) fs::remove(prefix_ + kind, ignored);
    for (const Question question : kQuestions) fs::remove(set_of(question), ignored);
  }

  struct Answers {
    double load = 0;
    double first = 0;  ///< From the load's request on.
    Series warm{"warm"};
    Counts counts;  ///< Until the first answer, the load's included.
  };
  [[nodiscard]] Answers clone(const Way& way, Question question) const {
    if (way.cold) drop_from_page_cache({prefix_ + ".state", prefix_ + ".mem", set_of(question)});
    MayflyGuest guest{scratch_, monitor_};
    Answers answers;
    const Counts before = counts_of(guest);
    answers.load = guest.load(prefix_, {.working_set = way.working_set ? "Replay" : "",
                                        .set_path = way.working_set ? set_of(question) : "",
                                        .huge_pages = way.huge_pages});
    answers.first = answers.load + ask(guest, question);
    answers.counts = counts_of(guest) - before;
    for (unsigned i = 0; i < kWarm; ++i) answers.warm.add(ask(guest, question));
    return answers;
  }

 private:
  [[nodiscard]] std::string set_of(Question question) const {
    return prefix_ + "." + std::to_string(static_cast<int>(question)) + ".set";
  }
  const ScratchDirectory& scratch_;
  std::string monitor_;
  std::string prefix_;
};

/// Samples of one way and question.
struct Samples {
  Series load{"load"}, first{"first"}, warm{"warm"};
  Counts counts;
};
using Results = std::map<std::pair<std::size_t, Question>, Samples>;

void print(const std::string& title, const Results& results) {
  std::printf("\n%-38s %8s %8s %8s %8s %8s %8s %8s\n", title.c_str(), "load ms", "first ms", "warm ms", "guest f.",
              "host f.", "exits", "switches");
  for (const auto& [key, samples] : results) {
    const std::string name = std::string{kWays[key.first].name} + ", " + name_of(key.second);
    std::printf("%-38s %8.2f %8.2f %8.2f %8.0f %8.0f %8.0f %8.0f\n", name.c_str(), samples.load.median(),
                samples.first.median(), samples.warm.median(), samples.counts.guest_faults, samples.counts.host_faults,
                samples.counts.exits, samples.counts.switches);
  }
}

int run(const std::vector<std::string>& monitors, const LinuxFiles& files, int rounds) {
  const ScratchDirectory scratch;
  std::map<std::pair<std::size_t, unsigned>, Results> all;
  for (const unsigned vcpus : {1U, 2U})
    for (std::size_t i = 0; i < monitors.size(); ++i) {
      const Template frozen{scratch, monitors[i], files, vcpus};
      Results& results = all[{i, vcpus}];
      for (int round = 0; round < rounds; ++round)
        for (std::size_t way = 0; way < kWays.size(); ++way)
          for (const Question question : kQuestions) {
            const Template::Answers answers = frozen.clone(kWays[way], question);
            Samples& samples = results[{way, question}];
            samples.load.add(answers.load);
            samples.first.add(answers.first);
            samples.warm.add(answers.warm.median());
            samples.counts = answers.counts;
          }
      std::fprintf(stderr, "answer: %s, %u vCPUs: done\n", monitors[i].c_str(), vcpus);
      print(monitors[i] + ", " + std::to_string(vcpus) + (vcpus == 1 ? " vCPU" : " vCPUs"), results);
    }
  const Results& ours = all.at({0, 1});
  const Samples& line = ours.at({0, Question::Line});
  const Samples& page = ours.at({0, Question::Page});
  std::printf(
      "answer: console_first_ms=%.2f console_warm_ms=%.2f http_first_ms=%.2f http_warm_ms=%.2f touch_first_ms=%.2f "
      "load_ms=%.2f http_first_set_ms=%.2f http_first_2m_ms=%.2f\n",
      line.first.median(), line.warm.median(), page.first.median(), page.warm.median(),
      ours.at({0, Question::Touch}).first.median(), line.load.median(), ours.at({1, Question::Page}).first.median(),
      ours.at({2, Question::Page}).first.median());
  return 0;
}

}  // namespace
}  // namespace mayfly::perf

int main(int argc, char** argv) { return mayfly::perf::linux_benchmark_main(argc, argv, mayfly::perf::run); }
