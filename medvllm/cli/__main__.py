"""`python -m medvllm.cli`."""

from medvllm.cli import main

if __name__ == "__main__":
    main()
