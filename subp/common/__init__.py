"""What every other folder of subp may need: seeds derived from one seed, settings as plain numbers, torchvision
imported quietly, exported programs read without running what they bring, and memory that is kept when it is freed.

May import PyTorch, torchvision and subp_contract; must not import another folder of subp.
"""
