#include "other.hpp"

#include <mistral/mistral.hpp>

// Links only if nothing in the library's headers is defined twice; both units must mean the same by what they share.
int main() {
    const bool same = message_of_other_unit() == mistral::concat("position ", 3);
    return same && is_defined(nullptr, nullptr, nullptr, nullptr) ? 0 : 1;
}
