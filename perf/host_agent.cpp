// perf/run host-agent: what a client of the example host agent (tests/host-agent) waits for an answer by a fresh clone,
// beside an answer of the agent's own; and how many such answers a second clients get who come all at once.

#include "tests/support/host_agent.h"

#include "perf/series.h"

#include <atomic>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <ctime>
#include <exception>
#include <map>
#include <string>
#include <thread>
#include <vector>

namespace mayfly::perf {
namespace {

using namespace mayfly::testing;

constexpr const char* kClones = "4";
constexpr unsigned kClients = 4;

/// Within this a clone that was used has ended, and another monitor stands ready.
constexpr timespec kPoolTime{.tv_sec = 0, .tv_nsec = 20'000'000};

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

int run(const HostAgent::Options& options, int requests) {
  HostAgent agent{options};
  agent.await_ready();
  Series ready{"a clone's, clones standing ready"};
  Series at_once{"a clone's, one after the other"};
  Series own{"the agent's own (GET /stats)"};
  std::vector<double> samples;
  for (int i = 0; i < requests; ++i) {
    ::nanosleep(&kPoolTime, nullptr);
    samples.push_back(measure(agent, "POST", "/", "hello"));
    ready.add(samples.back());
    own.add(measure(agent, "GET", "/stats", ""));
    if (i % 50 == 0) std::fprintf(stderr, "\r%d of %d", i, requests);
  }
  const std::string stats = agent.answer("GET", "/stats");
  for (int i = 0; i < requests; ++i) at_once.add(measure(agent, "POST", "/", "hello"));
  std::fprintf(stderr, "\r\033[K");
  const Rate rate = measure_rate(agent, requests);
  print_table("an answer, as its client sees it", "ms", {ready, at_once, own});
  const auto part = [&stats](const std::string& name) {
    const std::size_t at = stats.find("\"" + name + "\":{");
    const std::size_t p50 = stats.find("\"p50\":", at);
    if (p50 == std::string::npos) give_up("no " + name + " in " + stats);
    return std::stod(stats.substr(p50 + 6)) / 1e3;
  };
  std::printf(
      "\nof the median, as the agent saw it: %.2f ms until the clone was loaded, %.2f ms until it had answered\n",
      part("loading"), part("answering"));
  std::printf("%u clients at once: %.0f answers a second; %u were told to come again\n", kClients, rate.per_second,
              rate.refused);
  print_histogram("HTTP request to a fresh clone's answer", samples);
  std::printf("\np50_ms=%.2f p99_ms=%.2f rate=%.0f own_p50_ms=%.2f\n", ready.median(), ready.quantile(0.99),
              rate.per_second, own.median());
  agent.signal(SIGTERM);
  return agent.wait();
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
