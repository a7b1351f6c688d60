"""What every other folder of subp may need: seeds derived from one seed, settings as plain numbers, and torchvision
imported quietly.

May import PyTorch, torchvision and subp_contract; must not import another folder of subp.
"""
