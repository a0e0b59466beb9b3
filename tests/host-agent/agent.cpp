#include "tests/host-agent/agent.h"

#include "tests/host-agent/http_server.h"
#include "tests/host-agent/status_page.h"

#include <cstdio>

namespace mayfly::host_agent {

void Agent::serve(const HttpMessage& request, int client) {
  if (request.request_line.starts_with("GET /stats ")) {
    send_stats(client);
    return;
  }
  const auto begin = Clock::now();
  const Deadline deadline = begin + options_.deadline;
  auto clone = pool_.take(deadline);
  if (!clone) return refuse(client);
  const std::string asked = http_request(request.request_line, request.body);
  std::string_view left = asked;
  // So that the guest finds the request at its first look, and runs once for both.
  if (clone->is_connected()) left = send_ahead(asked, clone->connection());
  if (const auto running = clone->go_on(deadline); !running) {
    std::fprintf(stderr, "host_agent: a clone cannot go on: %s\n", running.error().message.c_str());
    return excuse(time_left(deadline).count() > 0 ? Silence::Died : Silence::Late, client);
  }
  const auto loaded = Clock::now();
  const auto answer = hand_over(left, {.connection = clone->connection(),
                                       .machine = clone->pidfd(),
                                       .asker = {.fd = client, .events = POLLRDHUP, .revents = 0},
                                       .deadline = deadline,
                                       .is_connected = clone->is_connected()});
  if (!answer) return excuse(answer.error(), client);
  clone->note_answer();
  if (!send_answer(client, *answer)) return excuse(Silence::Unasked, client);
  const auto answered = Clock::now();
  statistics_.note_answer({.whole = answered - begin, .loading = loaded - begin, .answering = answered - loaded},
                          clone->kind() == ClonePool::Kind::Source);
}

void Agent::serve_status(const HttpMessage& request, int client) {
  // The page loads nothing but its numbers.
  constexpr std::string_view kPolicy =
      "Content-Security-Policy: default-src 'none'; connect-src 'self'; img-src data:; script-src 'unsafe-inline'; "
      "style-src 'unsafe-inline'\r\n";
  if (request.request_line.starts_with("GET / "))
    send_answer(client, text_answer("200 OK", status_page(), "text/html; charset=utf-8", kPolicy));
  else if (request.request_line.starts_with("GET /stats "))
    send_stats(client);
  else
    send_answer(client, text_answer("404 Not Found", "there are / and /stats, and GET alone"));
}

void Agent::send_stats(int client) {
  send_answer(client, text_answer("200 OK", stats(), "application/json", "Cache-Control: no-store\r\n"));
}

void Agent::refuse(int client) {
  statistics_.note(Statistics::End::Refused);
  send_answer(client, text_answer("503 Service Unavailable", "all clones are busy; try again", "text/plain",
                                  "Retry-After: 1\r\n"));
}

void Agent::excuse(Silence silence, int client) {
  statistics_.note(silence == Silence::Late      ? Statistics::End::Late
                   : silence == Silence::Unasked ? Statistics::End::Unasked
                                                 : Statistics::End::Failed);
  if (silence == Silence::Late)
    send_answer(client, text_answer("504 Gateway Timeout", "the function has not answered in time"));
  else if (silence != Silence::Unasked)
    send_answer(client, text_answer("502 Bad Gateway", "the function has ended without an answer"));
}

std::string Agent::stats() {
  const MemoryUse memory = memory_.measure([this] { return pool_.processes(); });
  const ClonePool::State state = pool_.state();
  JsonWriter json;
  json.begin_object();
  json.key("clones");
  json.begin_object();
  json.field("ready", state.ready);
  json.field("busy", state.busy);
  json.field("waiting", state.waiting);
  json.end_object();
  json.key("memory");
  memory.write(json);
  statistics_.write_counts(json);
  if (options_.source != nullptr) {
    json.key("live_snapshot");
    options_.source->write(json);
  }
  statistics_.write_latency(json);
  json.end_object();
  return std::move(json).take();
}

}  // namespace mayfly::host_agent
