// Frames on which a network fails, of other sizes, without landmarks, without a time: failures BUNDLE LANDMARKER, for
// sanitizers. The landmarker's networks fail where the first value of a frame is 240 or more.
#include <cstdio>
#include <limits>
#include <spoter/spoter.hpp>

int main(int argc, char **argv) {
  if (argc < 3) return 2;
  spoter::Options options;
  options.threads = 1;
  const spoter::Recognizer recognizer(argv[1], options);
  spoter::Landmarker landmarker(argv[2], options);
  spoter::SignStream stream(recognizer);
  std::vector<std::uint8_t> rgb(96 * 128 * 3);
  constexpr double unknown = std::numeric_limits<double>::quiet_NaN();
  int failed = 0, faults = 0, ready = 0;
  for (int n = 0; n < 60; ++n) {
    const std::size_t size = n / 5 % 2 ? 48 : 96;
    rgb[0] = n % 3 ? 0 : 255;
    try {
      auto landmarks = landmarker.accept(rgb.data(), size, 128);
      if (n % 3 == 1) landmarks[7] = std::numeric_limits<float>::infinity();
      stream.accept(landmarks.data(), n % 6 == 5 ? unknown : 40.0 * n, 0, landmarker.persons());
    } catch (const spoter::Error &error) {
      failed += error.status == SPOTER_BACKEND_ERROR;
    }
    for (const spoter::Event &event : stream.events()) faults += event.type == "fault", ready += event.type == "ready";
  }
  stream.flush();
  std::printf("%d failed, %d faults, %d ready\n", failed, faults, ready);
  return failed == 20 && faults == 30 && ready == 1 ? 0 : 1;
}
