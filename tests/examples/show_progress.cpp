// Shows the generator's progress bar, which the bundled model is loaded too quickly for.

#include <generate/terminal.hpp>

#include <chrono>
#include <thread>

int main() {
    generator::ProgressBar bar("loading", true);
    bar.show(0, 2);  // too soon to be shown
    std::this_thread::sleep_for(std::chrono::milliseconds(400));
    bar.show(1, 2);
    bar.show(2, 2);
}
