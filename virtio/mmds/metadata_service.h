#pragma once

#include "virtio/mmds/http_request.h"
#include "virtio/mmds/metadata_store.h"
#include "virtio/mmds/session_tokens.h"
#include "vmm/base/metrics.h"
#include "vmm/config/configuration.h"

#include <cstdint>
#include <string>

/// Answers a guest's requests.
///
///   MetadataService service{config, store, SessionTokens{key, now_ns}, metrics.mmds};
///   HttpAnswer answer = service.answer(request, now_ns);
///
/// GET reads the metadata at the target's path: as JSON where the client accepts "application/json", else as text.
/// PUT /latest/api/token gives a token, for the seconds that X-metadata-token-ttl-seconds says, and with V2 GET needs
/// it in X-metadata-token; EC2's names of the two fields will do. Every answer to a request has Mayfly-Generation, which is
/// another one in each clone and after each revert.
///
/// One for all interfaces of a machine. One thread at a time, together with the store.
namespace mayfly {

struct HttpAnswer {
  std::string text;         ///< Head and body.
  bool keep_alive = false;  ///< Whether another request may follow.
};

class MetadataService {
 public:
  /// What a clone has of its own.
  struct Identity {
    SessionTokens tokens;
    std::uint64_t generation;  ///< A random number, which any guest may know.
  };

  /// `store` and `metrics` outlive the service.
  MetadataService(MmdsConfig config, const MetadataStore& store, const Identity& identity, MmdsMetrics& metrics)
      : config_(std::move(config)), store_(store), identity_(identity), metrics_(metrics) {}

  [[nodiscard]] const MmdsConfig& config() const noexcept { return config_; }
  /// Tokens that were given before are of no use any more.
  void replace(const Identity& identity) noexcept { identity_ = identity; }

  [[nodiscard]] HttpAnswer answer(const HttpRequest& request, std::uint64_t now_ns) const;
  /// The answer to malformed requests; the connection ends with it.
  [[nodiscard]] static HttpAnswer refuse(HttpRequestFault fault);

 private:
  struct Reply;
  [[nodiscard]] Reply reply_to(const HttpRequest& request, std::uint64_t now_ns) const;
  [[nodiscard]] Reply get(const HttpRequest& request, std::uint64_t now_ns) const;
  [[nodiscard]] Reply put(const HttpRequest& request, std::uint64_t now_ns) const;

  MmdsConfig config_;
  const MetadataStore& store_;
  Identity identity_;
  MmdsMetrics& metrics_;
};

}  // namespace mayfly
