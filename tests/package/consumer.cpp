#include <mistral/mistral.hpp>

#include <iostream>

int main() {
    std::cout << "mistral " << MISTRAL_VERSION << '\n';
    return mistral::Window{64}.first_visible(100) == 37 ? 0 : 1;
}
