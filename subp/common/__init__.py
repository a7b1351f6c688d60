"""What every other folder of subp may need: seeds derived from one seed, settings as plain numbers, torchvision
imported quietly, and exported programs read without running what they bring.

May import PyTorch, torchvision and subp_contract; must not import another folder of subp.
"""
