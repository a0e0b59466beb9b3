// perf/run host-agent: what a client of the example host agent (tests/host-agent) waits for an answer by a fresh clone, by
// one that went back to its snapshot, and by one that was branched off a loaded machine, beside an answer of the agent's
// own; and how many such answers a second clients get who come all at once.

#include "tests/support/host_agent.h"

#include "perf/series.h"

#include <sys/resource.h>

#include <atomic>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <ctime>
#include <exception>
#include <map>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace mayfly::perf {
namespace {

using namespace mayfly::testing;

/// More than clients: the next clones are made while these are at work.
constexpr const char* kClones = "12";
constexpr unsigned kClients = 4;

/// Between looks at the pool, and for the host to come to rest when it is full.
constexpr timespec kLookAgain{.tv_sec = 0, .tv_nsec = 1'000'000};
constexpr timespec kRest{.tv_sec = 0, .tv_nsec = 20'000'000};

/// Returns when a clone stands ready in each place, and nobody is at work on another.
void await_full_pool(const HostAgent& agent) {
  const std::string full = "\"ready\":" + std::string{kClones} + ",";
  while (agent.answer("GET", "/stats").find(full) == std::string::npos) ::nanosleep(&kLookAgain, nullptr);
  ::nanosleep(&kRest, nullptr);
}

bool is_answered(const std::string& answer) {
  return answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\nHELLO");
}

/// One request, from its connection to the answer's end; in milliseconds.
double measure(const HostAgent& agent, const std::string& method, const std::string& path, const std::string& body) {
  const double begin = now_us();
  const std::string answer = agent.answer(method, path, body);
  const double ms = (now_us() - begin) / 1e3;
  if (!answer.starts_with("HTTP/1.1 200 ")) give_up(method + " " + path + " is answered: " + answer);
  if (!body.empty() && !is_answered(answer)) give_up("the clone has answered: " + answer);
  return ms;
}

struct Rate {
  double per_second;
  unsigned refused;  ///< And asked again.
};

/// Clients that come again as soon as they have been answered.
Rate measure_rate(const HostAgent& agent, int requests) {
  std::atomic<int> left{requests};
  std::atomic<unsigned> refused{0};
  std::atomic<bool> failed{false};
  const double begin = now_us();
  std::vector<std::thread> clients;
  for (unsigned i = 0; i < kClients; ++i)
    clients.emplace_back([&] {
      try {
        while (!failed && left.fetch_sub(1) > 0) {
          std::string answer;
          while (!is_answered(answer = agent.answer("POST", "/", "hello"))) {
            if (!answer.starts_with("HTTP/1.1 503 ")) give_up("answered: " + answer);
            ++refused;
          }
        }
      } catch (const std::exception& failure) {
        std::fprintf(stderr, "\nperf: %s\n", failure.what());
        failed = true;
      }
    });
  for (std::thread& client : clients) client.join();
  if (failed) give_up("a request has failed");
  return {.per_second = requests / ((now_us() - begin) / 1e6), .refused = refused};
}

/// CPU time of all processes that have ended, whose parents waited for them.
double cpu_ms_of_ended() {
  rusage usage{};
  ::getrusage(RUSAGE_CHILDREN, &usage);
  const auto ms = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) * 1e3 + static_cast<double>(time.tv_usec) / 1e3;
  };
  return ms(usage.ru_utime) + ms(usage.ru_stime);
}

/// How often which time was seen: lines "from to count" for perf/histogram.
void print_histogram(const std::string& title, const std::vector<double>& samples) {
  constexpr double kWidthMs = 0.05;
  std::map<long, unsigned> bars;
  for (const double ms : samples) ++bars[std::lround(std::floor(ms / kWidthMs))];
  std::printf("\nhistogram: %s (ms)\n", title.c_str());
  for (const auto& [bar, count] : bars)
    std::printf("%9.2f %9.2f %6u\n", static_cast<double>(bar) * kWidthMs, static_cast<double>(bar + 1) * kWidthMs,
                count);
}

/// What clients of one agent wait for.
struct Measured {
  Series ready;
  Series at_once;
  Series own{"the agent's own (GET /stats)"};
  Rate rate{};
  double loading_ms = 0;    ///< Of the median, as the agent saw it: until the clone runs,
  double answering_ms = 0;  ///< and until it has answered.
  double cpu_ms = 0;  ///< Of agent and monitors an answer, their starts and ends included; no neighbour disturbs it.
  std::vector<double> samples{};
};

Measured measure_agent(const std::string& whose, const HostAgent::Options& options, int requests) {
  const double before = cpu_ms_of_ended();
  HostAgent agent{options};
  agent.await_ready();
  Measured measured{.ready = Series{whose + ", clones standing ready"},
                    .at_once = Series{whose + ", one after the other"}};
  for (int i = 0; i < requests; ++i) {
    await_full_pool(agent);
    measured.samples.push_back(measure(agent, "POST", "/", "hello"));
    measured.ready.add(measured.samples.back());
    measured.own.add(measure(agent, "GET", "/stats", ""));
    if (i % 50 == 0) std::fprintf(stderr, "\r%d of %d", i, requests);
  }
  const std::string stats = agent.answer("GET", "/stats");
  for (int i = 0; i < requests; ++i) measured.at_once.add(measure(agent, "POST", "/", "hello"));
  std::fprintf(stderr, "\r\033[K");
  measured.rate = measure_rate(agent, requests);
  const auto part = [&stats](const std::string& name) {
    const std::size_t at = stats.find("\"" + name + "\":{");
    const std::size_t p50 = stats.find("\"p50\":", at);
    if (p50 == std::string::npos) give_up("no " + name + " in " + stats);
    return std::stod(stats.substr(p50 + 6)) / 1e3;
  };
  measured.loading_ms = part("loading");
  measured.answering_ms = part("answering");
  agent.signal(SIGTERM);
  if (agent.wait() != 0) give_up("the agent has failed");
  measured.cpu_ms = (cpu_ms_of_ended() - before) / (3.0 * requests);
  return measured;
}

HostAgent::Options with(HostAgent::Options options, const std::string& option) {
  options.more.push_back(option);
  return options;
}

int run(const HostAgent::Options& options, int requests) {
  const Measured fresh = measure_agent("a fresh clone's", options, requests);
  const Measured reverted = measure_agent("a reverted clone's", with(options, "--revert"), requests);
  const Measured branched = measure_agent("a branch's", with(options, "--branch"), requests);
  print_table(
      "an answer, as its client sees it", "ms",
      {fresh.ready, fresh.at_once, reverted.ready, reverted.at_once, branched.ready, branched.at_once, fresh.own});
  std::printf("\n");
  for (const auto& [how, measured] :
       {std::pair{"fresh", &fresh}, std::pair{"reverted", &reverted}, std::pair{"branched", &branched}}) {
    std::printf("%s: of the median, as the agent saw it, %.2f ms until the clone runs, %.2f ms until it has answered\n",
                how, measured->loading_ms, measured->answering_ms);
    // Branches are not the agent's children, so their time is unknown.
    if (measured != &branched)
      std::printf("%s: an answer takes %.2f ms of CPU time, of agent and monitors\n", how, measured->cpu_ms);
    std::printf("%s: %u clients at once get %.0f answers a second; %u were told to come again\n", how, kClients,
                measured->rate.per_second, measured->rate.refused);
  }
  print_histogram("HTTP request to the answer of a fresh clone", fresh.samples);
  print_histogram("HTTP request to the answer of a clone that went back to its snapshot", reverted.samples);
  print_histogram("HTTP request to the answer of a clone that was branched off a loaded machine", branched.samples);
  std::printf("\np50_ms=%.2f p99_ms=%.2f rate=%.0f own_p50_ms=%.2f cpu_ms=%.2f revert_cpu_ms=%.2f",
              fresh.ready.median(), fresh.ready.quantile(0.99), fresh.rate.per_second, fresh.own.median(), fresh.cpu_ms,
              reverted.cpu_ms);
  for (const auto& [how, measured] : {std::pair{"revert", &reverted}, std::pair{"branch", &branched}})
    std::printf(" %s_p50_ms=%.2f %s_p99_ms=%.2f %s_rate=%.0f", how, measured->ready.median(), how,
                measured->ready.quantile(0.99), how, measured->rate.per_second);
  std::printf("\n");
  return 0;
}

}  // namespace
}  // namespace mayfly::perf

int main(int argc, char** argv) {
  return mayfly::perf::benchmark_main(argc, argv, "MONITOR AGENT GUEST", [](const auto& paths, int requests) {
    return mayfly::perf::run({.agent = paths[1],
                              .monitor = paths[0],
                              .guest = paths[2],
                              .more = {"--clones", mayfly::perf::kClones, "--deadline-ms", "10000"}},
                             requests);
  });
}
