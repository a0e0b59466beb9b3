#include "tests/host-agent/agent.h"

#include "tests/host-agent/http_server.h"

#include <cstdio>

namespace mayfly::host_agent {

void Agent::serve(const HttpMessage& request, int client) {
  if (request.request_line.starts_with("GET /stats ")) {
    send_answer(client, text_answer("200 OK", stats(), "application/json"));
    return;
  }
  const auto begin = Clock::now();
  const Deadline deadline = begin + options_.deadline;
  auto clone = pool_.take(deadline);
  if (!clone) return refuse(client);
  if (const auto running = clone->go_on(deadline); !running) {
    std::fprintf(stderr, "host_agent: a clone cannot go on: %s\n", running.error().message.c_str());
    return excuse(time_left(deadline).count() > 0 ? Silence::Died : Silence::Late, client);
  }
  const auto loaded = Clock::now();
  const auto answer = hand_over(http_request(request.request_line, request.body),
                                {.connection = clone->connection(),
                                 .machine = clone->pidfd(),
                                 .asker = {.fd = client, .events = POLLRDHUP, .revents = 0},
                                 .deadline = deadline});
  if (!answer) return excuse(answer.error(), client);
  clone->note_answer();
  if (!send_answer(client, *answer)) return excuse(Silence::Unasked, client);
  note_answer(clone->kind(), begin, loaded, Clock::now());
}

void Agent::refuse(int client) {
  {
    const std::scoped_lock lock{mutex_};
    ++counts_.refused;
  }
  send_answer(client, text_answer("503 Service Unavailable", "all clones are busy; try again", "text/plain",
                                  "Retry-After: 1\r\n"));
}

void Agent::excuse(Silence silence, int client) {
  {
    const std::scoped_lock lock{mutex_};
    ++(silence == Silence::Late ? counts_.late : silence == Silence::Unasked ? counts_.unasked : counts_.failed);
  }
  if (silence == Silence::Late)
    send_answer(client, text_answer("504 Gateway Timeout", "the function has not answered in time"));
  else if (silence != Silence::Unasked)
    send_answer(client, text_answer("502 Bad Gateway", "the function has ended without an answer"));
}

void Agent::note_answer(ClonePool::Kind by, Clock::time_point begin, Clock::time_point loaded,
                        Clock::time_point answered) {
  const std::scoped_lock lock{mutex_};
  ++counts_.answered;
  if (by == ClonePool::Kind::Source) ++counts_.answered_by_source;
  whole_.add(answered - begin);
  loading_.add(loaded - begin);
  answering_.add(answered - loaded);
}

std::string Agent::stats() const {
  const ClonePool::State state = pool_.state();
  const std::scoped_lock lock{mutex_};
  JsonWriter json;
  json.begin_object();
  json.key("clones");
  json.begin_object();
  json.field("ready", state.ready);
  json.field("busy", state.busy);
  json.field("waiting", state.waiting);
  json.end_object();
  json.key("requests");
  json.begin_object();
  json.field("answered", counts_.answered);
  json.field("refused", counts_.refused);
  json.field("failed", counts_.failed);
  json.field("late", counts_.late);
  json.field("unasked", counts_.unasked);
  json.end_object();
  json.key("answered_by");
  json.begin_object();
  json.field("source", counts_.answered_by_source);
  json.field("clones", counts_.answered - counts_.answered_by_source);
  json.end_object();
  if (options_.source != nullptr) {
    json.key("live_snapshot");
    options_.source->write(json);
  }
  json.key("latency_us");
  json.begin_object();
  json.key("whole");
  whole_.write(json);
  json.key("loading");
  loading_.write(json);
  json.key("answering");
  answering_.write(json);
  json.end_object();
  json.end_object();
  return std::move(json).take();
}

}  // namespace mayfly::host_agent
