#include "rootfs-tools/agent/guest/serve.h"

#include "rootfs-tools/agent/guest/exec_session.h"
#include "rootfs-tools/agent/guest/splice.h"
#include "rootfs-tools/agent/tree.h"
#include "vmm/base/try.h"

#include <algorithm>
#include <chrono>
#include <csignal>

namespace mayfly::agent {
namespace {

/// For a request that has begun.
constexpr std::chrono::seconds kRequestPatience{30};

Status serve_get(FrameStream& stream, std::string_view payload) {
  const auto request = TRY(decode_get(payload));
  const auto source = TRY(find_source(request.path));
  TRY(stream.send(FrameType::Done));
  const TreeHooks hooks{.note = [&stream](std::string_view sentence) {
    (void)stream.send(FrameType::Note, sentence.substr(0, kLongestPayload));
  }};
  return send_tree(stream, source, hooks);
}

Status serve_put(FrameStream& stream, std::string_view payload) {
  const auto request = TRY(decode_put(payload));
  auto place = TRY(find_destination(request.path, request.name));
  TRY(stream.send(FrameType::Done));
  TRY(receive_tree(stream, std::move(place), SetIdBits::Kept, {}));
  return stream.send(FrameType::Done);
}

/// mayfly-guest-init powers off at this signal, when the image's program has had its own, and the time that stands with it.
Status serve_power_off(FrameStream& stream, std::string_view payload, const Defaults& defaults) {
  if (!defaults.init_is_parent)
    return fail(ErrorKind::Unsupported, "the agent was not started by mayfly-guest-init, which ends the guest");
  const auto seconds = TRY(decode_number(payload));
  // Before init is told, which ends us, maybe at once.
  TRY(stream.send(FrameType::Done));
  if (::sigqueue(1, SIGUSR2, {.sival_int = static_cast<int>(std::min(seconds, kLongestStopSeconds))}) != 0)
    return fail_errno(ErrorKind::System, "init cannot be told");
  return {};
}

Status serve_request(FrameStream& stream, const Defaults& defaults) {
  auto frame = stream.receive(std::chrono::steady_clock::now() + kRequestPatience);
  if (!frame) return propagate(frame);
  switch (frame->type) {
    case FrameType::Ping:
      return stream.send(FrameType::Done);
    case FrameType::PowerOff:
      return serve_power_off(stream, frame->payload, defaults);
    case FrameType::Exec: {
      const auto request = TRY(decode_exec(frame->payload));
      serve_exec(stream, request, defaults);
      return {};
    }
    case FrameType::Connect: {
      const auto request = TRY(decode_connect(frame->payload));
      serve_connect(stream, request);
      return {};
    }
    case FrameType::Get:
      return serve_get(stream, frame->payload);
    case FrameType::Put:
      return serve_put(stream, frame->payload);
    default:
      return fail(ErrorKind::InvalidArgument, "the host sent a frame ({}) that is no request; are both of one version?",
                  static_cast<unsigned>(frame->type));
  }
}

}  // namespace

void serve(OwnedFd socket, const Defaults& defaults) {
  FrameStream stream{std::move(socket)};
  const auto served = serve_request(stream, defaults);
  if (!served) {
    const RefusalReason reason =
        served.error().kind == ErrorKind::NotFound ? RefusalReason::NotFound : RefusalReason::Other;
    const Refusal refusal{.reason = reason, .sentence = served.error().message};
    if (!stream.send(FrameType::Refused, encode(refusal))) return;
  }
  stream.finish();
}

}  // namespace mayfly::agent
